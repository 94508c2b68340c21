// SPDX-License-Identifier: MIT
/*
 * A swarm in one process under a virtual clock: one seed, many receivers, lib/p2p/swarm.c in each of them,
 * links as fluids (fluid.h). Messages of one sender arrive in order, each after 0.75 to 1.25 times the
 * latency. A read begins to move after --read_latency. Hashing a piece takes time, on four threads.
 * docs/p2p.md, "Simulation", has results.
 */
#include <stdio.h>
#include <time.h>

#include "../../tools/common/options.c"

#include "bench/fluid.h"
#include "p2p/manifest.h"
#include "p2p/swarm.h"

#define SEED 0u /* node 0; receivers follow */
#define HASH_THREADS 4
#define GIVE_UP 200 /* times size / rate */

static struct {
	uint64_t receivers, pieces, piece_size, rate, slots, window, late, seed, repeats, hash_rate;
	double latency, read_latency, spread;
	bool slow, kill, star, json;
} flags;

static const struct opt table[] = {
	{.name = "receivers",
	 .type = OPT_UINT,
	 .value = &flags.receivers,
	 .def = "8",
	 .min = 1,
	 .max = 1000,
	 .help = "that fetch"},
	{.name = "pieces",
	 .type = OPT_UINT,
	 .value = &flags.pieces,
	 .def = "1024",
	 .min = 1,
	 .max = 10000000,
	 .help = "of the object"},
	{.name = "piece_size",
	 .type = OPT_SIZE,
	 .value = &flags.piece_size,
	 .def = "4MiB",
	 .min = 1,
	 .help = "of each"},
	{.name = "rate",
	 .type = OPT_SIZE,
	 .value = &flags.rate,
	 .def = "1250MB",
	 .min = 1,
	 .help = "bytes per second of every link, up and down"},
	{.name = "latency",
	 .type = OPT_DOUBLE,
	 .value = &flags.latency,
	 .def = "1",
	 .help = "milliseconds of a message, one way"},
	{.name = "read_latency",
	 .type = OPT_DOUBLE,
	 .value = &flags.read_latency,
	 .def = "0.1",
	 .help = "milliseconds until a read moves"},
	{.name = "hash_rate",
	 .type = OPT_SIZE,
	 .value = &flags.hash_rate,
	 .def = "1GB",
	 .min = 1,
	 .help = "bytes per second and thread; each receiver has four"},
	{.name = "spread",
	 .type = OPT_DOUBLE,
	 .value = &flags.spread,
	 .def = "10",
	 .help = "milliseconds within which the receivers begin"},
	{.name = "slots",
	 .type = OPT_UINT,
	 .value = &flags.slots,
	 .def = "16",
	 .min = 1,
	 .max = 1024,
	 .help = "as mc_p2p_attr.slots"},
	{.name = "window",
	 .type = OPT_UINT,
	 .value = &flags.window,
	 .def = "16",
	 .min = 1,
	 .max = 1024,
	 .help = "as mc_p2p_attr.window"},
	{.name = "late",
	 .type = OPT_UINT,
	 .value = &flags.late,
	 .def = "0",
	 .max = 1000,
	 .help = "of the receivers, so many begin at half the time"},
	{.name = "slow",
	 .type = OPT_BOOL,
	 .value = &flags.slow,
	 .help = "the first receiver has a quarter of the rate"},
	{.name = "kill",
	 .type = OPT_BOOL,
	 .value = &flags.kill,
	 .help = "the seed dies once it sent every piece"},
	{.name = "star",
	 .type = OPT_BOOL,
	 .value = &flags.star,
	 .help = "no swarm: all fetch from the seed alone"},
	{.name = "seed", .type = OPT_UINT, .value = &flags.seed, .def = "1", .help = "of the generator"},
	{.name = "repeats",
	 .type = OPT_UINT,
	 .value = &flags.repeats,
	 .def = "1",
	 .min = 1,
	 .max = 1000,
	 .help = "with the following seeds"},
	{.name = "json", .type = OPT_BOOL, .value = &flags.json, .help = "one JSON object per line"},
	{.name = NULL},
};

static const struct opt_set set = {
	.tool = "p2p_sim",
	.usage = "[flags]",
	.summary = "Simulates how an object spreads from one seed, under a virtual clock.",
	.table = table,
	.more = "Times are multiples of size / rate, for each from its own beginning. Exit status: 0, 1 if "
		"not everyone got\n"
		"everything.\n",
};

/* What happens at a node at a time; each queue is in order of time. */
enum event { STARTS, HAVE, FETCHES, INTEREST, GRANT, RETURN, MAP, DEAD, READ, VERIFIED };
#define ALL UINT32_MAX
struct entry {
	double at;
	enum event event;
	uint32_t to, piece, number; /* READ: to = source */
	uint64_t *map;
};
struct queue {
	struct entry *entries;
	uint32_t first, count, room; /* a ring; room is a power of two */
	double last;
};
enum { SENT, READS, HASHES, QUEUES };

struct node {
	struct mci_swarm *swarm;
	struct mci_swarm_peer **peer; /* by node */
	struct queue queue[QUEUES];
	double begins, done, timer, next;
	bool there, slow, late;
	struct mc_uuid uuid;
};

static struct {
	struct node *nodes;
	uint32_t count, finished;
	struct fluid fluid;
	double now, latency, read_latency, unit; /* unit: size / rate */
	uint64_t random;
	double bytes, seed_bytes;
	uint64_t messages, steps, reads_of_metadata, writes_of_metadata, watch_events;
	uint64_t *copied; /* bitmap: pieces that a receiver got */
	uint32_t copies;
	bool seed_dead;
} sim;

static double chance(void)
{
	sim.random ^= sim.random << 13;
	sim.random ^= sim.random >> 7;
	sim.random ^= sim.random << 17;
	return (double)(sim.random >> 11) / 9007199254740992.0;
}

static uint64_t now_ns(void) { return 1 + (uint64_t)(sim.now * 1e9); }

static void find_next(struct node *node)
{
	node->next = node->timer;
	for (int i = 0; i < QUEUES; i++) {
		const struct queue *queue = &node->queue[i];

		if (queue->count && queue->entries[queue->first].at < node->next)
			node->next = queue->entries[queue->first].at;
	}
}

static void push(uint32_t at_node, int which, struct entry entry)
{
	struct node *node = &sim.nodes[at_node];
	struct queue *queue = &node->queue[which];

	if (queue->count == queue->room) {
		uint32_t room = queue->room ? 2 * queue->room : 64;
		struct entry *entries = malloc(room * sizeof(*entries));

		if (!entries)
			abort();
		for (uint32_t i = 0; i < queue->count; i++)
			entries[i] = queue->entries[(queue->first + i) & (queue->room - 1)];
		free(queue->entries);
		queue->entries = entries;
		queue->first = 0;
		queue->room = room;
	}
	if (entry.at < queue->last)
		entry.at = queue->last;
	queue->last = entry.at;
	queue->entries[(queue->first + queue->count++) & (queue->room - 1)] = entry;
	if (entry.at < node->next)
		node->next = entry.at;
}

static void send(uint32_t from, uint32_t to, enum event event, uint32_t piece, uint32_t number, uint64_t *map)
{
	push(from, SENT,
	     (struct entry){.at = sim.now + sim.latency * (0.75 + 0.5 * chance()),
			    .event = event,
			    .to = to,
			    .piece = piece,
			    .number = number,
			    .map = map});
	sim.messages += event != DEAD && event != STARTS && to != ALL;
}

static void cancel_read(uint32_t sink, uint32_t source, uint32_t piece)
{
	struct queue *waiting = &sim.nodes[sink].queue[READS];

	for (uint32_t i = 0; i < waiting->count; i++) {
		struct entry *entry = &waiting->entries[(waiting->first + i) & (waiting->room - 1)];

		if (entry->to == source && entry->piece == piece)
			entry->to = ALL; /* nothing begins */
	}
	for (uint32_t i = 0; i < sim.fluid.count; i++) {
		struct fluid_read *read = &sim.fluid.reads[i];

		if (read->source != source || read->sink != sink || read->piece != piece)
			continue;
		fluid_move(&sim.fluid, sim.now);
		sim.bytes += (double)flags.piece_size - read->left;
		if (source == SEED)
			sim.seed_bytes += (double)flags.piece_size - read->left;
		fluid_end(&sim.fluid, i);
		break;
	}
}

static void run_steps(uint32_t n)
{
	struct node *node = &sim.nodes[n];
	struct mci_swarm_step step;

	for (;;) {
		uint32_t other;

		mci_swarm_step(node->swarm, now_ns(), &step);
		if (step.action == MCI_SWARM_NOTHING)
			break;
		sim.steps++;
		other = (uint32_t)(uintptr_t)mci_swarm_peer_user(step.peer);
		switch (step.action) {
		case MCI_SWARM_FETCH:
			push(n, READS,
			     (struct entry){.at = sim.now + sim.read_latency,
					    .event = READ,
					    .to = other,
					    .piece = step.piece});
			break;
		case MCI_SWARM_CANCEL:
			cancel_read(n, other, step.piece);
			mci_swarm_failed(node->swarm, step.peer, step.piece, now_ns(), MCI_SWARM_CANCELLED);
			break;
		case MCI_SWARM_INTEREST:
			send(n, other, INTEREST, 0, step.on, NULL);
			break;
		case MCI_SWARM_GRANT:
			send(n, other, GRANT, 0, step.slots, NULL);
			break;
		case MCI_SWARM_RETURN:
			send(n, other, RETURN, 0, step.slots, NULL);
			break;
		case MCI_SWARM_ANNOUNCE:
			send(n, other, FETCHES, step.piece, step.on, NULL);
			break;
		default:
			abort();
		}
	}
	node->timer = mci_swarm_next_ns(node->swarm) == UINT64_MAX
			      ? INFINITY
			      : (double)mci_swarm_next_ns(node->swarm) / 1e9;
	find_next(node);
}

static uint64_t *map_of(const struct node *node)
{
	uint64_t *map = calloc((flags.pieces + 63) / 64, sizeof(*map));

	if (!map)
		abort();
	for (uint32_t i = 0; i < flags.pieces; i++)
		if (mci_swarm_holds(node->swarm, i))
			map[i / 64] |= 1ull << (i % 64);
	return map;
}

static void meet(uint32_t a, uint32_t b)
{
	if (mci_swarm_peer_add(sim.nodes[a].swarm, &sim.nodes[b].uuid, b == SEED, (void *)(uintptr_t)b,
			       &sim.nodes[a].peer[b]))
		abort();
	send(a, b, MAP, 0, 0, map_of(&sim.nodes[a]));
}

/* Joining costs: record, chunks, record again, list; one key written, of which every other member hears. */
static void starts(uint32_t n)
{
	struct node *node = &sim.nodes[n];
	uint32_t others = 0;

	node->there = true;
	for (uint32_t i = 0; i < sim.count; i++) {
		if (i == n || !sim.nodes[i].there || (i == SEED && sim.seed_dead))
			continue;
		others++;
		if (flags.star && i != SEED)
			continue;
		meet(n, i);
		meet(i, n);
		run_steps(i);
	}
	sim.reads_of_metadata += 3 + (flags.pieces * 2 * MCI_P2P_HASH + MCI_P2P_CHUNK_MAX - 1) / MCI_P2P_CHUNK_MAX;
	sim.writes_of_metadata++;
	sim.watch_events += others;
}

static void dies(void)
{
	sim.seed_dead = true;
	fluid_move(&sim.fluid, sim.now);
	for (uint32_t i = 0; i < sim.fluid.count; i++) {
		struct fluid_read *read = &sim.fluid.reads[i];

		if (read->source != SEED)
			continue;
		fluid_touch(&sim.fluid, SEED, read->sink, -1);
		read->dead = true;
	}
	for (uint32_t i = 1; i < sim.count; i++)
		if (sim.nodes[i].there)
			send(SEED, i, DEAD, 0, 0, NULL);
}

static void seed_gone(uint32_t n)
{
	struct node *node = &sim.nodes[n];
	struct queue *waiting = &node->queue[READS];

	for (uint32_t i = 0; i < waiting->count; i++) {
		struct entry *entry = &waiting->entries[(waiting->first + i) & (waiting->room - 1)];

		if (entry->to != SEED)
			continue;
		entry->to = ALL;
		mci_swarm_failed(node->swarm, node->peer[SEED], entry->piece, now_ns(), MCI_SWARM_ERROR);
	}
	for (uint32_t i = sim.fluid.count; i-- > 0;) {
		struct fluid_read *read = &sim.fluid.reads[i];

		if (read->source != SEED || read->sink != n)
			continue;
		sim.bytes += (double)flags.piece_size - read->left;
		sim.seed_bytes += (double)flags.piece_size - read->left;
		mci_swarm_failed(node->swarm, node->peer[SEED], read->piece, now_ns(), MCI_SWARM_ERROR);
		fluid_end(&sim.fluid, i);
	}
	mci_swarm_peer_remove(node->swarm, node->peer[SEED]);
	node->peer[SEED] = NULL;
}

static void receive(uint32_t from, uint32_t to, const struct entry *entry)
{
	struct node *node = &sim.nodes[to];
	struct mci_swarm_peer *peer = node->peer[from];

	if (!node->there || !peer || (to == SEED && sim.seed_dead))
		return;
	switch (entry->event) {
	case HAVE:
		sim.messages += !mci_swarm_complete(node->swarm);
		mci_swarm_peer_has(node->swarm, peer, entry->piece);
		break;
	case FETCHES:
		mci_swarm_peer_fetches(node->swarm, peer, entry->piece, entry->number);
		break;
	case INTEREST:
		mci_swarm_peer_interested(node->swarm, peer, entry->number);
		break;
	case GRANT:
		mci_swarm_peer_granted(node->swarm, peer, entry->number);
		break;
	case RETURN:
		if (mci_swarm_peer_returned(node->swarm, peer, entry->number))
			abort();
		break;
	case MAP:
		for (uint32_t i = 0; i < flags.pieces; i++)
			if (entry->map[i / 64] >> (i % 64) & 1)
				mci_swarm_peer_has(node->swarm, peer, i);
		break;
	case DEAD:
		seed_gone(to);
		break;
	default:
		abort();
	}
	run_steps(to);
}

static void holds(uint32_t n, uint32_t piece)
{
	struct node *node = &sim.nodes[n];

	mci_swarm_have(node->swarm, piece);
	send(n, ALL, HAVE, piece, 0, NULL);
	if (mci_swarm_complete(node->swarm)) {
		node->done = sim.now;
		sim.finished++;
		sim.writes_of_metadata++; /* the member key: it holds all */
		for (uint32_t i = 0; i < sim.count; i++)
			sim.watch_events += i != n && sim.nodes[i].there && !(i == SEED && sim.seed_dead);
	}
	run_steps(n);
}

static void happens(uint32_t n, const struct entry *entry)
{
	switch (entry->event) {
	case STARTS:
		starts(n);
		run_steps(n);
		break;
	case READ:
		if (entry->to == ALL)
			break;
		fluid_add(&sim.fluid, sim.now, entry->to, n, entry->piece, (double)flags.piece_size);
		if (entry->to == SEED && sim.seed_dead) { /* it hangs until the death is known */
			sim.fluid.reads[sim.fluid.count - 1].dead = true;
			fluid_touch(&sim.fluid, SEED, n, -1);
		}
		break;
	case VERIFIED:
		holds(n, entry->piece);
		break;
	default:
		if (entry->to != ALL) {
			receive(n, entry->to, entry);
		} else {
			for (uint32_t i = 0; i < sim.count; i++)
				if (i != n)
					receive(n, i, entry);
		}
		free(entry->map);
	}
}

static void run_queues(uint32_t n)
{
	struct node *node = &sim.nodes[n];

	for (int i = 0; i < QUEUES; i++) {
		struct queue *queue = &node->queue[i];

		while (queue->count && queue->entries[queue->first].at <= sim.now) {
			struct entry entry = queue->entries[queue->first];

			queue->first = (queue->first + 1) & (queue->room - 1);
			queue->count--;
			happens(n, &entry);
		}
	}
	if (node->timer <= sim.now)
		run_steps(n);
	find_next(node);
}

/* A read came to its end: to be verified, unless the piece came from elsewhere before. */
static void comes(const struct fluid_read *read)
{
	struct node *node = &sim.nodes[read->sink];
	double took = (double)flags.piece_size / (double)flags.hash_rate, last = node->queue[HASHES].last;

	sim.bytes += (double)flags.piece_size;
	if (read->source == SEED)
		sim.seed_bytes += (double)flags.piece_size;
	if (!(sim.copied[read->piece / 64] >> (read->piece % 64) & 1)) {
		sim.copied[read->piece / 64] |= 1ull << (read->piece % 64);
		sim.copies++;
	}
	if (mci_swarm_done(node->swarm, node->peer[read->source], read->piece, now_ns()))
		push(read->sink, HASHES,
		     (struct entry){.at = fmax(sim.now + took, last + took / HASH_THREADS),
				    .event = VERIFIED,
				    .piece = read->piece});
	run_steps(read->sink);
	if (flags.kill && !sim.seed_dead && sim.copies == flags.pieces)
		dies();
}

static void run(void)
{
	while (sim.finished < flags.receivers && sim.now < GIVE_UP * sim.unit + 100) {
		double next = sim.fluid.next;

		for (uint32_t i = 0; i < sim.count; i++)
			next = fmin(next, sim.nodes[i].next);
		if (next == INFINITY)
			return;
		sim.now = fmax(next, sim.now);
		if (sim.fluid.next <= sim.now) {
			fluid_move(&sim.fluid, sim.now);
			for (uint32_t i = sim.fluid.count; i-- > 0;) {
				struct fluid_read read = sim.fluid.reads[i];

				if (read.dead || read.left > 1e-3)
					continue;
				fluid_end(&sim.fluid, i);
				comes(&read);
				i = i > sim.fluid.count ? sim.fluid.count
							: i; /* a cancelled read is gone too */
			}
		}
		for (uint32_t i = 0; i < sim.count; i++)
			if (sim.nodes[i].next <= sim.now)
				run_queues(i);
		fluid_settle(&sim.fluid);
	}
}

static void set_up(uint64_t seed)
{
	memset(&sim, 0, sizeof(sim));
	sim.count = (uint32_t)flags.receivers + 1;
	sim.random = seed * 0x9e3779b97f4a7c15ull | 1;
	sim.latency = flags.latency / 1e3;
	sim.read_latency = flags.read_latency / 1e3;
	sim.unit = (double)flags.pieces * (double)flags.piece_size / (double)flags.rate;
	sim.nodes = calloc(sim.count, sizeof(*sim.nodes));
	sim.copied = calloc((flags.pieces + 63) / 64, sizeof(uint64_t));
	fluid_new(&sim.fluid, sim.count);
	if (!sim.nodes || !sim.copied)
		abort();
	for (uint32_t i = 0; i < sim.count; i++) {
		struct node *node = &sim.nodes[i];
		struct mci_swarm_attr attr = {.pieces = (uint32_t)flags.pieces,
					      .slots = (uint32_t)flags.slots,
					      .window = (uint32_t)flags.window,
					      .seed = i == SEED};

		for (size_t b = 0; b < sizeof(node->uuid.b); b++)
			node->uuid.b[b] = (uint8_t)(chance() * 256);
		attr.self = node->uuid;
		attr.random = (uint64_t)(chance() * 1e18);
		node->slow = flags.slow && i == 1;
		node->late = i > flags.receivers - flags.late;
		node->peer = calloc(sim.count, sizeof(*node->peer));
		node->timer = node->next = INFINITY;
		sim.fluid.up[i] = sim.fluid.down[i] = (double)flags.rate / (node->slow ? 4 : 1);
		if (!node->peer || mci_swarm_new(&attr, &node->swarm))
			abort();
		if (i == SEED) {
			node->there = true;
			continue;
		}
		node->begins = (node->late ? sim.unit / 2 : 0) + flags.spread / 1e3 * chance();
		push(i, HASHES, (struct entry){.at = node->begins, .event = STARTS});
		node->queue[HASHES].last = 0;
	}
	/* The seed: chunks, record, member. */
	sim.writes_of_metadata = 2 + (flags.pieces * 2 * MCI_P2P_HASH + MCI_P2P_CHUNK_MAX - 1) / MCI_P2P_CHUNK_MAX;
	sim.reads_of_metadata = 1;
}

static void tear_down(void)
{
	for (uint32_t i = 0; i < sim.count; i++) {
		mci_swarm_free(sim.nodes[i].swarm);
		free(sim.nodes[i].peer);
		for (int q = 0; q < QUEUES; q++) {
			struct queue *queue = &sim.nodes[i].queue[q];

			for (; queue->count;
			     queue->count--, queue->first = (queue->first + 1) & (queue->room - 1))
				free(queue->entries[queue->first].map);
			free(queue->entries);
		}
	}
	fluid_free(&sim.fluid);
	free(sim.nodes);
	free(sim.copied);
}

/* Completion of the last of one kind, in units of size / rate from its own beginning. */
static double last_of(bool slow, bool late)
{
	double worst = 0;

	for (uint32_t i = 1; i < sim.count; i++) {
		const struct node *node = &sim.nodes[i];

		if (node->slow == slow && node->late == late)
			worst = fmax(worst,
				     node->done > 0 ? (node->done - node->begins) / sim.unit : INFINITY);
	}
	return worst;
}

static void print(uint64_t seed, double cpu)
{
	double size = (double)flags.pieces * (double)flags.piece_size;
	double all = size * (double)flags.receivers;
	double messages = (double)sim.messages / (double)flags.pieces / (double)flags.receivers;

	printf(flags.json
		       ? "{\"receivers\": %llu, \"pieces\": %llu, \"latency_ms\": %g, \"seed\": %llu, "
			 "\"last\": %.3f, "
			 "\"last_late\": %.3f, \"last_slow\": %.3f, \"seed_bytes\": %.3f, \"duplicated\": "
			 "%.5f, "
			 "\"messages_per_piece\": %.2f, \"metadata_reads\": %llu, \"metadata_writes\": %llu, "
			 "\"watch_events\": %llu, \"steps\": %llu, \"cpu_s\": %.1f}\n"
		       : "%9llu %7llu %7g %5llu  %6.3f %6.3f %6.3f  %6.3f  %9.5f  %8.2f  %6llu %6llu %6llu  "
			 "%9llu %6.1f\n",
	       (unsigned long long)flags.receivers, (unsigned long long)flags.pieces, flags.latency,
	       (unsigned long long)seed, last_of(false, false), last_of(false, true), last_of(true, false),
	       sim.seed_bytes / size, (sim.bytes - all) / all, messages,
	       (unsigned long long)sim.reads_of_metadata, (unsigned long long)sim.writes_of_metadata,
	       (unsigned long long)sim.watch_events, (unsigned long long)sim.steps, cpu);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	bool all = true;

	opt_parse(&set, argc, argv);
	if (flags.late > flags.receivers)
		flags.late = flags.receivers;
	if (!flags.json)
		printf("%9s %7s %7s %5s  %6s %6s %6s  %6s  %9s  %8s  %6s %6s %6s  %9s %6s\n", "receivers",
		       "pieces", "latency", "seed", "last", "late", "slow", "seed", "dup", "msg/piece",
		       "reads", "writes", "events", "steps", "cpu");
	for (uint64_t seed = flags.seed; seed < flags.seed + flags.repeats; seed++) {
		clock_t before = clock();

		set_up(seed);
		run();
		all &= sim.finished == flags.receivers;
		print(seed, (double)(clock() - before) / CLOCKS_PER_SEC);
		tear_down();
	}
	return !all;
}
