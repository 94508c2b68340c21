// SPDX-License-Identifier: MIT
/* transfer_engine_bench: flags of the classic tool and ours, the plan of the runs, exit status. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <jansson.h>

#include "common/bench.h"
#include "common/options.h"
#include "common/output.h"
#include "common/settings.h"

static struct bench_options o;
static char host[256] = "localhost";

static const struct opt table[] = {
	{"mode", OPT_CHOICE, &o.mode, "initiator", .choices = "initiator|target",
	 .help = "initiator: move data and measure; target: offer memory until Ctrl-C",
	 .group = "What to do"},
	{"operation", OPT_CHOICE, &o.operation, "read", .choices = "read|write",
	 .help = "read: the target's memory into ours; write: ours into the target's"},
	{"check", OPT_BOOL, &o.check, "false",
	 .help = "instead: write patterns, read them back, count wrong bytes (run one initiator at a time)"},
	{"sweep", OPT_BOOL, &o.sweep, "false",
	 .help = "measure a table of block sizes, batch sizes and threads"},
	{"sweep_block_size", OPT_TEXT, &o.sweep_block_size, "4K,16K,64K,256K,1M,4M,16M",
	 .help = "block sizes of --sweep"},
	{"sweep_batch_size", OPT_TEXT, &o.sweep_batch_size, "1,32", .help = "batch sizes of --sweep"},
	{"sweep_threads", OPT_TEXT, &o.sweep_threads, "1,4", .help = "thread counts of --sweep"},

	{"metadata_server", OPT_TEXT, &o.metadata_server, "192.168.3.77:2379",
	 .help = "etcd://host:port[,host:port] (also bare host:port), redis://host:port, "
		 "http://host:port/metadata, or P2PHANDSHAKE for none; $MOONCAKE_METADATA, or the default, "
		 "if not given",
	 .group = "Who and where",
	 .given = &o.metadata_given},
	{"local_server_name", OPT_TEXT, &o.local_server_name, NULL,
	 .help = "name of our own segment, unique in the cluster; host:port also fixes the port; "
		 "$MOONCAKE_NAME, or the host name, if not given",
	 .given = &o.name_given},
	{"segment_id", OPT_TEXT, &o.segment_id, "192.168.3.76", .help = "name of the target's segment"},
	{"bind", OPT_TEXT, &o.bind, NULL, .help = "address to listen on; all if not given"},
	{"advertise", OPT_TEXT, &o.advertise, NULL,
	 .help = "addresses to publish, comma-separated; by the route to the metadata service if not given"},
	{"key_file", OPT_TEXT, &o.key_file, NULL,
	 .help = "cluster key, as \"mooncake key new\" writes it; $MOONCAKE_KEY_FILE if not given"},
	{"insecure", OPT_BOOL, &o.insecure, "false",
	 .help = "serve P2PHANDSHAKE beyond this host without a cluster key",
	 .given = &o.insecure_given},
	{"config", OPT_TEXT, &o.config, NULL,
	 .help = "YAML file with settings; $MOONCAKE_CONFIG if not given"},

	{"block_size", OPT_SIZE, &o.block_size, "65536", 1, 1ll << 40, .help = "bytes of a request",
	 .group = "Load"},
	{"batch_size", OPT_UINT, &o.batch_size, "128", 1, 65536, .help = "requests of a batch"},
	{"threads", OPT_UINT, &o.threads, "12", 1, 4096, .help = "threads that submit"},
	{"depth", OPT_UINT, &o.depth, "1", 1, 1024, .help = "batches in flight per thread"},
	{"duration", OPT_DOUBLE, &o.duration, "10", 0, 31536000,
	 .help = "seconds (of each run of a sweep: 1 if not given)", .given = &o.duration_given},
	{"warmup", OPT_DOUBLE, &o.warmup, "0.5", 0, 3600, .help = "seconds before measuring begins"},
	{"timeout_ms", OPT_UINT, &o.timeout_ms, "30000", 1, 86400000, .help = "deadline of a request",
	 .given = &o.timeout_given},
	{"open_timeout_ms", OPT_UINT, &o.open_timeout_ms, "0", 0, 86400000,
	 .help = "how long the target may take to be reached; 0 = every error is there 5 s after the start"},
	{"working_set", OPT_SIZE, &o.working_set, "0", 0, 1ll << 44,
	 .help = "walk over this much memory instead of the same block x batch x threads again and again"},
	{"seed", OPT_UINT, &o.seed, "0", .help = "of --check's patterns; 0 = a new one for each run"},
	{"follow_restart", OPT_BOOL, &o.follow_restart, "true",
	 .help = "re-open the segment and go on (counted) when the target was restarted; "
		 "its memory is other memory"},

	{"buffer_size", OPT_SIZE, &o.buffer_size, "1073741824", 1, 1ll << 44,
	 .help = "per NUMA node; raised to block x batch x threads if smaller; an initiator that is not "
		 "given it takes just those",
	 .group = "Memory", .given = &o.buffer_size_given},
	{"memory", OPT_TEXT, &o.memory, "shared",
	 .help = "shared (peers on this host map it: memory of the kernel module, or a memfd where there is "
		 "none), memfd, anonymous (they copy with process_vm_readv), or named:NAME (outlives the "
		 "process)"},
	{"page_size", OPT_SIZE, &o.page_size, "0", .help = "4K, 2M or 1G; 0 = huge pages if enough are free"},
	{"init_mem", OPT_BOOL, &o.init_mem, "true",
	 .help = "fill buffers with 0xCC, except named memory that has content"},
	{"use_vram", OPT_BOOL, &o.use_vram, "false",
	 .help = "GPU memory; this build has no GPU support, true is refused"},
	{"gpu_id", OPT_INT, &o.gpu_id, "0", -1, 1024, .help = "for --use_vram"},

	{"protocol", OPT_TEXT, &o.protocol, "auto",
	 .help = "auto (the best that both sides have), rdma, tcp, shm (same host), tcp-classic or rdma-classic (the "
		 "classic protocols, from a target that serves them), or a classic name, refused where this machine or "
		 "build lacks it: "
		 "barex, efa, nvlink, nvlink_intra, musa, hip, sunrise_link, ub, ubshmem",
	 .group = "Path",
	 .given = &o.protocol_given},
	{"streams", OPT_UINT, &o.streams, "0", 0, 64, .help = "TCP connections to the target; 0 = automatic",
	 .given = &o.streams_given},
	{"io_threads", OPT_UINT, &o.io_threads, "0", 0, 256,
	 .help = "threads that serve sockets; 0 = min(4, cores)",
	 .given = &o.io_threads_given},
	{"integrity", OPT_BOOL, &o.integrity, "false", .help = "TCP data in TLS 1.3 keyed by the handshake",
	 .given = &o.integrity_given},
	{"checksum", OPT_BOOL, &o.checksum, "false", .help = "xxh3 over every TCP payload",
	 .given = &o.checksum_given},
	{"classic", OPT_BOOL, &o.classic, "false",
	 .help = "also serve classic peers, which may then read and write registered memory "
		 "without authentication",
	 .given = &o.classic_given},
	{"require_ack", OPT_BOOL, &o.require_ack, "false",
	 .help = "refuse classic v1 peers, whose writes cannot be confirmed",
	 .given = &o.require_ack_given},
	{"device_name", OPT_TEXT, &o.device_name, "mlx5_2",
	 .help = "RDMA devices, comma-separated; not given: all with an active port", .given = &o.device_given},
	{"nic_priority_matrix", OPT_TEXT, &o.nic_priority_matrix, "",
	 .help = "JSON file {\"cpu:0\": [[preferred], [others]]}: which NICs are near which memory, and, without "
		 "--device_name, which are used; \"mooncake topology --matrix\" writes one"},
	{"auto_discovery", OPT_BOOL, &o.auto_discovery, "false",
	 .help = "all RDMA devices, near ones first, whatever --device_name and --nic_priority_matrix say"},
	{"backend", OPT_CHOICE, &o.backend, "classic", .choices = "classic|tent",
	 .help = "accepted: there is one engine here, and it does what both were made for"},

	{"report_unit", OPT_TEXT, &o.report_unit, "GB", .help = "GB, GiB, Gb, MB, MiB, Mb, KB, KiB, Kb",
	 .group = "Report"},
	{"report_precision", OPT_UINT, &o.report_precision, "2", 0, 12, .help = "digits after the point"},
	{"json", OPT_BOOL, &o.json, "false", .help = "one JSON object on stdout and nothing else"},
	{0},
};

static const struct opt_set set = {
	.tool = "transfer_engine_bench",
	.usage = "[flags]",
	.summary = "Measures transfers between two processes. Start a target; it prints the command line of "
		   "an initiator.",
	.table = table,
	.more = "Exit status: 0 all went well; 1 a request failed, a byte was wrong, or it could not begin; "
		"2 wrong usage.\n",
};

/* Whether the library can use what is there, its engine says when it opens. */
static int rdma_there(void)
{
	DIR *dir = opendir("/sys/class/infiniband");
	struct dirent *entry;
	bool found = false;

	while (dir && (entry = readdir(dir)))
		found |= entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	if (found)
		return 0;
	return out_error(
		"--protocol=%s: this machine has no RDMA device (/sys/class/infiniband is empty): use "
		"--protocol=tcp or auto",
		o.protocol);
}

static int protocol_ok(void)
{
	static const char *const known[] = {"auto", "tcp", "shm", "tcp-classic", "rdma", "rdma-classic"};
	static const char *const classic[] = {"barex", "efa",	 "nvlink",	 "nvlink_intra", "musa",
					      "maca",  "hip",	 "sunrise_link", "ub",		 "ubshmem",
					      "cxl",   "nvmeof", "ascend",	 "cxi",		 "nccl"};
	const char *near;
	size_t i;

	if (!strcmp(o.protocol, "rdma") || !strcmp(o.protocol, "rdma-classic"))
		return rdma_there();
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(o.protocol, known[i]))
			return 0;
	for (i = 0; i < sizeof(classic) / sizeof(classic[0]); i++)
		if (!strcmp(o.protocol, classic[i]))
			return out_error("--protocol=%s: this build has no transport for that hardware: use "
					 "--protocol=tcp or auto",
					 o.protocol);
	near = opt_nearest(o.protocol, known, sizeof(known) / sizeof(known[0]));
	out_error("--protocol is one of auto, tcp, shm, rdma, tcp-classic, rdma-classic or another classic name, not "
		  "\"%s\"%s%s%s",
		  o.protocol, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	return OPT_EXIT_USAGE;
}

/* {"cpu:0": [["mlx5_0"], ["mlx5_1"]]} */
static bool is_matrix(const json_t *root)
{
	const char *key;
	json_t *entry;

	if (!json_is_object(root))
		return false;
	json_object_foreach((json_t *)root, key, entry)
	{
		if (json_array_size(entry) != 2 || !json_is_array(json_array_get(entry, 0)) ||
		    !json_is_array(json_array_get(entry, 1)))
			return false;
	}
	return true;
}

static int matrix_ok(void)
{
	json_error_t error;
	json_t *root;
	bool good;

	if (!*o.nic_priority_matrix)
		return 0;
	root = json_load_file(o.nic_priority_matrix, 0, &error);
	if (!root && error.line > 0)
		return out_error("--nic_priority_matrix=%s: line %d: %s", o.nic_priority_matrix, error.line,
				 error.text);
	if (!root)
		return out_error("--nic_priority_matrix=%s: %s", o.nic_priority_matrix, error.text);
	good = is_matrix(root);
	json_decref(root);
	if (!good)
		return out_error(
			"--nic_priority_matrix=%s: not of the form {\"cpu:0\": [[\"mlx5_0\"], [\"mlx5_1\"]]}",
			o.nic_priority_matrix);
	return 0;
}

static int memory_ok(void)
{
	if (!strcmp(o.memory, "shared") || !strcmp(o.memory, "memfd") || !strcmp(o.memory, "anonymous") ||
	    (!strncmp(o.memory, "named:", 6) && o.memory[6]))
		return 0;
	out_error("--memory is shared, memfd, anonymous or named:NAME, not \"%s\"", o.memory);
	return OPT_EXIT_USAGE;
}

static int page_size_ok(void)
{
	if (!o.page_size || o.page_size == (uint64_t)sysconf(_SC_PAGESIZE) || o.page_size == 2ull << 20 ||
	    o.page_size == 1ull << 30)
		return 0;
	out_error("--page_size is 4K, 2M, 1G, or 0 for huge pages where they are free, not %llu",
		  (unsigned long long)o.page_size);
	return OPT_EXIT_USAGE;
}

static int names_ok(void)
{
	if (*o.segment_id || strcmp(o.mode, "initiator"))
		return 0;
	out_error("--segment_id is empty; give the name that the target printed");
	return OPT_EXIT_USAGE;
}

/* "4K,64K" into @values; number of them, or -1 after a sentence. */
static int parse_list(const char *flag, const char *text, uint64_t max, uint64_t values[64])
{
	char one[64];
	int count = 0;
	size_t len;

	for (;; text += len + 1) {
		len = strcspn(text, ",");
		snprintf(one, sizeof(one), "%.*s", len < sizeof(one) ? (int)len : (int)sizeof(one) - 1, text);
		if (len >= sizeof(one) || count == 64 || opt_parse_size(one, &values[count]) ||
		    !values[count] || values[count] > max) {
			out_error("--%s is a list such as 1,4,16 of at most 64 numbers up to %llu; \"%s\" "
				  "does not fit",
				  flag, (unsigned long long)max, one);
			return -1;
		}
		count++;
		if (!text[len])
			return count;
	}
}

static int lists_ok(void)
{
	uint64_t values[64];

	if (parse_list("sweep_block_size", o.sweep_block_size, 1ull << 40, values) < 0 ||
	    parse_list("sweep_batch_size", o.sweep_batch_size, 65536, values) < 0 ||
	    parse_list("sweep_threads", o.sweep_threads, 4096, values) < 0)
		return OPT_EXIT_USAGE;
	return 0;
}

/* Flags that were given win, then the environment, then the configuration file, then the classic default. */
static void take_settings(void)
{
	const struct {
		bool given, flag;
		const char *variable;
	} flags[] = {
		{o.classic_given, o.classic, "MOONCAKE_CLASSIC"},
		{o.insecure_given, o.insecure, "MOONCAKE_INSECURE"},
		{o.require_ack_given, o.require_ack, "MOONCAKE_REQUIRE_ACK"},
		{o.integrity_given, o.integrity, "MOONCAKE_INTEGRITY"},
		{o.checksum_given, o.checksum, "MOONCAKE_CHECKSUM"},
		{o.streams_given, o.streams, "MOONCAKE_STREAMS"},
		{o.io_threads_given, o.io_threads, "MOONCAKE_IO_THREADS"},
	};
	char *text;
	size_t i;

	text = o.metadata_given ? NULL : setting_text(o.config, "engine.metadata");
	if (text)
		o.metadata_server = text;
	text = o.name_given ? NULL : setting_text(o.config, "engine.name");
	if (text) {
		o.local_server_name = text;
		o.name_given = true;
	}
	text = o.timeout_given ? NULL : setting_text(o.config, "engine.timeout_ms");
	if (text)
		o.timeout_ms = strtoull(text, NULL, 10);
	free(text);
	/* The library takes "off" and "automatic" for "not said": over a setting that says otherwise, say it. */
	for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (flags[i].given && !flags[i].flag)
			setenv(flags[i].variable, "0", 1);
}

/* What does not fit together, or is not to be had here: 0 or an exit status. */
static int options_ok(void)
{
	int status = protocol_ok();

	if (!status)
		status = names_ok();
	if (!status)
		status = memory_ok();
	if (!status)
		status = page_size_ok();
	if (!status)
		status = lists_ok();
	if (!status)
		status = matrix_ok();
	if (status)
		return status;
	if (o.use_vram)
		return out_error("--use_vram=true: this build has no GPU support, so buffers can lie in host "
				 "memory only: use --use_vram=false");
	if (o.duration < 0.01) {
		out_error("--duration is a number of seconds from 0.01 on, not \"%g\"", o.duration);
		return OPT_EXIT_USAGE;
	}
	o.unit_bytes = out_unit(o.report_unit);
	if (!o.unit_bytes) {
		out_warn("--report_unit=%s is none of GB, GiB, Gb, MB, MiB, Mb, KB, KiB, Kb; using GB",
			 o.report_unit);
		o.report_unit = "GB";
		o.unit_bytes = 1e9;
	}
	return 0;
}

/* Bytes that the shape walks over; 0 if that is no sane number. */
static uint64_t shape_bytes(const struct bench_shape *shape)
{
	uint64_t bytes;

	if (o.working_set)
		return o.working_set;
	if (__builtin_mul_overflow(shape->block, shape->batch, &bytes) ||
	    __builtin_mul_overflow(bytes, shape->threads, &bytes) || bytes > 1ull << 46)
		return 0;
	return bytes;
}

/* 0 or an exit status. */
static int shape_ok(const struct bench_shape *shape)
{
	uint64_t least = shape->block * (o.check ? shape->threads : 1);

	if (!shape_bytes(shape))
		out_error("block size x batch size x threads is over 64 TiB; lower one of them");
	else if (o.working_set && o.working_set < least)
		out_error("--working_set=%llu is less than the %llu bytes of one block%s",
			  (unsigned long long)o.working_set, (unsigned long long)least,
			  o.check ? " per thread" : "");
	else
		return 0;
	return OPT_EXIT_USAGE;
}

/* The shapes to run, one or the whole sweep: an array and its length, or NULL after a sentence and *status. */
static struct bench_shape *plan(unsigned int *count, int *status)
{
	uint64_t blocks[64] = {o.block_size}, batches[64] = {o.batch_size}, threads[64] = {o.threads};
	int nblocks = 1, nbatches = 1, nthreads = 1, i, j, k;
	struct bench_shape *shapes, *shape;

	if (o.sweep) {
		nblocks = parse_list("sweep_block_size", o.sweep_block_size, 1ull << 40, blocks);
		nbatches = parse_list("sweep_batch_size", o.sweep_batch_size, 65536, batches);
		nthreads = parse_list("sweep_threads", o.sweep_threads, 4096, threads);
	}
	shapes = calloc((size_t)nblocks * (size_t)nbatches * (size_t)nthreads, sizeof(*shapes));
	if (!shapes) {
		*status = out_error("not enough memory");
		return NULL;
	}
	shape = shapes;
	for (i = 0; i < nthreads; i++)
		for (j = 0; j < nbatches; j++)
			for (k = 0; k < nblocks; k++, shape++) {
				shape->op = strcmp(o.operation, "read") ? MC_WRITE : MC_READ;
				shape->block = blocks[k];
				shape->batch = batches[j];
				shape->threads = threads[i];
				shape->warmup = o.warmup;
				shape->duration = o.sweep && !o.duration_given ? 1 : o.duration;
				*status = shape_ok(shape);
				if (*status) {
					free(shapes);
					return NULL;
				}
			}
	*count = (unsigned int)(shape - shapes);
	return shapes;
}

/* Bytes of each local buffer: as asked, and enough for every shape; an initiator needs no more than that. */
static uint64_t buffer_bytes(const struct bench_shape *shapes, unsigned int count)
{
	uint64_t bytes = o.buffer_size_given || strcmp(o.mode, "initiator") ? o.buffer_size : 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		if (shape_bytes(&shapes[i]) > bytes)
			bytes = shape_bytes(&shapes[i]);
	return bytes;
}

static int judge(const struct bench_result *r)
{
	if (!r->bytes && !r->interrupted)
		return out_error("nothing was moved: %s", r->error[0] ? r->error : "no batch was completed");
	if (!r->bytes)
		return out_error("interrupted before anything was moved%s%s", r->error[0] ? ": " : "",
				 r->error);
	return r->failed || r->timed_out || r->stale || r->wrong_bytes ? 1 : 0;
}

struct opening {
	struct bench *b;
	const struct bench_shape *shapes;
	unsigned int count;
	struct bench_peer *peer;
};

static int open_peer(void *arg)
{
	struct opening *opening = arg;

	opening->peer = bench_peer_await(opening->b, opening->shapes[0].op, true);
	progress_clear();
	return opening->peer ? 0 : -out_error("%s", mc_errmsg());
}

/* Is the target there, with memory enough for all shapes? To be known before ours is allocated. */
static int look(void *arg)
{
	struct opening *opening = arg;
	char text[512];
	unsigned int i;
	int ret = open_peer(opening);

	for (i = 0; i < opening->count && !ret; i++) {
		struct bench_run run = {.b = opening->b, .shape = opening->shapes[i]};

		run.span = bench_span(&o, &opening->shapes[i]);
		if (bench_peer_fits(&run, opening->peer, text, sizeof(text)))
			ret = -out_error("%s", text);
	}
	if (opening->peer)
		bench_peer_close(opening->peer);
	opening->b->started_ns = 0;
	return ret;
}

/* Runs of the plan, one after the other; exit status. */
static int run_plan(struct bench *b, const struct bench_shape *shapes, unsigned int count)
{
	struct opening opening = {.b = b, .shapes = shapes, .count = count};
	struct bench_peer *peer;
	struct bench_run closing = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct bench_result *results;
	unsigned int i, done = 0;
	int status = 0;

	if (bench_step(b, false, open_peer, &opening))
		return 1;
	peer = opening.peer;
	results = calloc(count, sizeof(*results));
	if (!results) {
		status = out_error("not enough memory");
		goto err_put;
	}
	for (i = 0; i < count; i++) {
		if (progress_on() && o.sweep)
			progress_line("run %u of %u", i + 1, count);
		if (bench_measure(b, &peer, &shapes[i], &results[i])) {
			status = 1;
			break;
		}
		done++;
		if (results[i].interrupted)
			break;
	}
	if (o.sweep && done)
		bench_report_sweep(b, results, done);
	else if (done)
		bench_report(b, &results[0]);
	for (i = 0; i < done; i++)
		status |= judge(&results[i]);
	free(results);
err_put:
	bench_peer_put(&closing, peer);
	return status;
}

static int initiator(void)
{
	struct bench b = {.o = &o, .started_ns = bench_now_ns()};
	struct opening opening = {.b = &b};
	struct bench_shape *shapes;
	unsigned int count = 0;
	int status = 0;

	shapes = plan(&count, &status);
	if (!shapes)
		return status;
	opening.shapes = shapes;
	opening.count = count;
	bench_block_signals(&b);
	if (bench_open(&b) || bench_step(&b, false, look, &opening) ||
	    bench_add_buffers(&b, buffer_bytes(shapes, count), 0))
		status = b.usage ? OPT_EXIT_USAGE : 1;
	if (!status)
		status = run_plan(&b, shapes, count);
	bench_close(&b);
	free(shapes);
	return status;
}

/* The target can be given the shape too, as the classic one; its buffers then hold it. */
static int target(void)
{
	struct bench_shape shape = {.block = o.block_size, .batch = o.batch_size, .threads = o.threads};

	int status = shape_ok(&shape);

	if (status)
		return status;
	o.buffer_size = buffer_bytes(&shape, 1);
	return bench_target(&o);
}

int main(int argc, char **argv)
{
	int status;

	out_init(set.tool);
	if (gethostname(host, sizeof(host) - 1))
		strcpy(host, "localhost");
	o.program = argv[0];
	o.local_server_name = host;
	opt_parse(&set, argc, argv);
	take_settings();
	status = options_ok();
	if (status)
		return status;
	if (!o.seed && getrandom(&o.seed, sizeof(o.seed), 0) != (ssize_t)sizeof(o.seed))
		o.seed = 1;
	return out_finish(strcmp(o.mode, "target") ? initiator() : target());
}
