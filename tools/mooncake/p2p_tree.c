// SPDX-License-Identifier: MIT
/* Directories in the P2P store: one object a file, and a list of them. */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "p2p.h"

#define LIST_NAME ".mooncake-tree"

/* Stays until the process ends: the store serves it. */
static char *list_text;

static int by_name(const FTSENT **a, const FTSENT **b) { return strcmp((*a)->fts_name, (*b)->fts_name); }

static int register_list(mc_p2p *store, const char *name, json_t *files)
{
	struct mc_p2p_register_attr attr = MC_P2P_REGISTER_ATTR_INIT;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	struct mc_p2p_range range;
	json_t *root = json_pack("{si sO}", "mooncake_tree", 1, "files", files);
	char object[512];

	list_text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	if (!list_text)
		return out_error("a name below the directory is no UTF-8 text: rename it");
	range = (struct mc_p2p_range){.addr = list_text, .length = strlen(list_text)};
	place.ranges = &range;
	place.count = 1;
	attr.flags = p2p.force ? MC_P2P_FORCE : 0;
	snprintf(object, sizeof(object), "%s/" LIST_NAME, name);
	if (mc_p2p_register(store, object, &place, &attr, NULL))
		return out_error("%s", mc_errmsg());
	return 0;
}

static bool same_bytes(const char *a, const char *b)
{
	static char of_a[1 << 16], of_b[1 << 16];
	FILE *one = fopen(a, "re"), *other = fopen(b, "re");
	size_t n = 1;
	bool same = one && other;

	while (same && n) {
		n = fread(of_a, 1, sizeof(of_a), one);
		same = fread(of_b, 1, sizeof(of_b), other) == n && !memcmp(of_a, of_b, n);
	}
	same = same && !ferror(one) && !ferror(other);
	if (one)
		fclose(one);
	if (other)
		fclose(other);
	return same;
}

/* The file of the list that has the bytes of @entry. */
static const char *find_same(const json_t *files, const char *directory, const FTSENT *entry)
{
	const char *relative;
	char path[4608];
	json_t *item;
	size_t i;

	json_array_foreach(files, i, item)
	{
		relative = json_string_value(json_object_get(item, "path"));
		if (!relative || json_object_get(item, "same") ||
		    json_integer_value(json_object_get(item, "bytes")) != entry->fts_statp->st_size)
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, relative);
		if (same_bytes(path, entry->fts_path))
			return relative;
	}
	return NULL;
}

static int register_one(mc_p2p *store, const char *name, const char *directory, const FTSENT *entry,
			const char *relative, json_t *files)
{
	const char *same = NULL;
	char object[4608];
	json_t *item;
	int status = 0;

	if (p2p_signalled(0))
		return out_error("interrupted while '%s' was being registered", name);
	snprintf(object, sizeof(object), "%s/%s", name, relative);
	if (entry->fts_statp->st_size)
		status = p2p_register_file(store, object, entry->fts_path, true);
	if (status == -EEXIST) {
		same = find_same(files, directory, entry);
		if (!same)
			return out_error("%s", mc_errmsg());
	} else if (status) {
		return status;
	}
	item = json_pack("{ss sI si}", "path", relative, "bytes", (json_int_t)entry->fts_statp->st_size, "mode",
			 (int)(entry->fts_statp->st_mode & 0777));
	if (same)
		json_object_set_new(item, "same", json_string(same));
	json_array_append_new(files, item);
	return 0;
}

int p2p_tree_register(mc_p2p *store, const char *name, const char *directory)
{
	char *paths[] = {(char *)directory, NULL};
	size_t skip = strlen(directory);
	json_t *files = json_array();
	const char *relative;
	FTSENT *entry;
	int status = 0;
	FTS *tree;

	tree = fts_open(paths, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
	if (!tree)
		status = out_error("cannot read '%s': %s", directory, strerror(errno));
	while (!status && (errno = 0, entry = fts_read(tree))) {
		relative = entry->fts_path + skip;
		relative += strspn(relative, "/");
		switch (entry->fts_info) {
		case FTS_F:
			if (!strcmp(relative, LIST_NAME) || entry->fts_namelen > 5)
				if (!strcmp(relative, LIST_NAME) ||
				    !strcmp(entry->fts_name + entry->fts_namelen - 5, ".part")) {
					out_warn("'%s' is left out: a file of ours that is not finished",
						 entry->fts_path);
					break;
				}
			status = register_one(store, name, directory, entry, relative, files);
			break;
		case FTS_D:
			if (*relative)
				json_array_append_new(files,
						      json_pack("{ss si}", "directory", relative, "mode",
								(int)(entry->fts_statp->st_mode & 0777)));
			break;
		case FTS_DP:
			break;
		case FTS_DNR:
		case FTS_ERR:
		case FTS_NS:
			status = out_error("cannot read '%s': %s", entry->fts_path,
					   strerror(entry->fts_errno));
			break;
		default:
			out_warn("'%s' is left out: it is neither a file nor a directory", entry->fts_path);
		}
	}
	if (!status && errno)
		status = out_error("cannot read '%s': %s", directory, strerror(errno));
	if (tree)
		fts_close(tree);
	if (!status)
		status = register_list(store, name, files);
	json_decref(files);
	return status;
}

/* A path from the list stays below the directory. */
static bool path_is_safe(const char *path)
{
	const char *at, *end;

	if (!path || !*path || *path == '/' || strlen(path) > 4000)
		return false;
	for (at = path; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, '/');
		if (end == at || (end - at == 1 && at[0] == '.') ||
		    (end - at == 2 && at[0] == '.' && at[1] == '.'))
			return false;
	}
	return true;
}

static int make_directory(const char *path)
{
	struct stat st;

	if (!mkdir(path, 0777) || (errno == EEXIST && !stat(path, &st) && S_ISDIR(st.st_mode)))
		return 0;
	return out_error("cannot make directory '%s': %s", path, strerror(errno));
}

static int make_parents(const char *directory, const char *relative)
{
	char path[4608];
	size_t base = strlen(directory) + 1, i;

	snprintf(path, sizeof(path), "%s/%s", directory, relative);
	for (i = base; path[i]; i++) {
		if (path[i] != '/')
			continue;
		path[i] = '\0';
		if (make_directory(path))
			return -EIO;
		path[i] = '/';
	}
	return 0;
}

static json_t *read_list(const char *path)
{
	json_error_t error;
	json_t *root = json_load_file(path, 0, &error), *files = NULL;

	if (json_integer_value(json_object_get(root, "mooncake_tree")) == 1)
		files = json_incref(json_object_get(root, "files"));
	json_decref(root);
	if (json_is_array(files))
		return files;
	json_decref(files);
	return NULL;
}

/* One of the fetches that run at one time. */
struct job {
	mc_p2p_task *task;
	char name[4608], path[4608];
	int mode;
};

static int start_job(mc_p2p *store, struct job *job, const char *name, const char *directory,
		     const json_t *file)
{
	struct mc_p2p_get_attr attr = MC_P2P_GET_ATTR_INIT;
	struct mc_p2p_place place = MC_P2P_PLACE_INIT;
	const char *relative = json_string_value(json_object_get(file, "path"));
	int fd;

	if (!path_is_safe(relative) || make_parents(directory, relative))
		return path_is_safe(relative) ? -EIO
					      : (out_error("the list of '%s' names a path that leads out of "
							   "it; it is not used",
							   name),
						 -EBADMSG);
	snprintf(job->name, sizeof(job->name), "%s/%s", name, relative);
	snprintf(job->path, sizeof(job->path), "%s/%s", directory, relative);
	job->mode = (int)json_integer_value(json_object_get(file, "mode")) & 0777;
	if (!json_integer_value(json_object_get(file, "bytes"))) {
		fd = open(job->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
			  job->mode); /* a pipe would block */
		if (fd < 0)
			return out_error("cannot make '%s': %s", job->path, strerror(errno)), -EIO;
		close(fd);
		return 0;
	}
	place.path = job->path;
	attr.timeout_ms = (uint32_t)p2p.timeout_ms;
	attr.stall_ms = (uint32_t)p2p.stall_ms;
	if (mc_p2p_get_start(store, job->name, &place, &attr, &job->task))
		return out_error("%s", mc_errmsg()), -EIO;
	return 0;
}

static int finish_job(struct job *job, struct mc_p2p_progress *sum)
{
	struct mc_p2p_progress progress = {.size = sizeof(progress)};
	int ret = p2p_fetch(job->name, job->task, false, &progress);

	job->task = NULL;
	if (ret)
		return ret;
	sum->bytes += progress.bytes;
	sum->held += progress.held;
	sum->reused += progress.reused;
	sum->fetched += progress.fetched;
	sum->from_seeds += progress.from_seeds;
	sum->pieces += progress.pieces;
	sum->bad_pieces += progress.bad_pieces;
	sum->elapsed_ns = progress.elapsed_ns > sum->elapsed_ns ? progress.elapsed_ns : sum->elapsed_ns;
	if (chmod(job->path, (mode_t)job->mode))
		out_warn("cannot set the mode of '%s': %s", job->path, strerror(errno));
	return 0;
}

/* In order of the list, so many at one time; the first error ends it, and what came is kept. */
static int get_files(mc_p2p *store, const char *name, const char *directory, json_t *files,
		     struct mc_p2p_progress *sum)
{
	size_t count = json_array_size(files), next = 0, oldest = 0;
	struct job *jobs = calloc(p2p.parallel, sizeof(*jobs));
	int ret = 0, ended;

	if (!jobs)
		return out_error("no memory for %u fetches", (unsigned int)p2p.parallel), -ENOMEM;
	while (oldest < count && (!ret || oldest < next)) {
		struct job *job = &jobs[next % p2p.parallel];

		if (!ret && next < count && next - oldest < p2p.parallel) {
			const json_t *file = json_array_get(files, next++);

			job->task = NULL;
			if (p2p_signalled(0))
				ret = (out_error("%s: interrupted", name), -EINTR);
			else if (json_object_get(file, "path") && !json_object_get(file, "same"))
				ret = start_job(store, job, name, directory, file);
			continue;
		}
		job = &jobs[oldest++ % p2p.parallel];
		if (ret && job->task)
			mc_p2p_task_cancel(job->task);
		ended = job->task ? finish_job(job, sum) : 0;
		ret = ret ? ret : ended;
	}
	free(jobs);
	return ret;
}

/* Not another file that happens to lie there. */
static bool is_in_list(const json_t *files, const char *relative)
{
	json_t *item;
	size_t i;

	json_array_foreach(files, i, item)
	{
		const char *path = json_string_value(json_object_get(item, "path"));

		if (path && relative && !strcmp(path, relative) && !json_object_get(item, "same"))
			return true;
	}
	return false;
}

static int copy_bytes(int from, int to)
{
	static char bytes[1 << 16];
	ssize_t n, done, written;

	while ((n = read(from, bytes, sizeof(bytes))) > 0)
		for (done = 0; done < n; done += written) {
			written = write(to, bytes + done, (size_t)(n - done));
			if (written < 0)
				return -errno;
		}
	return n < 0 ? -errno : 0;
}

/* Beside the target first, so that what has the name is whole. */
static int copy_file(const char *path, const char *target, mode_t mode)
{
	char part[4616];
	int from = open(path, O_RDONLY | O_CLOEXEC), to, ret = 0;

	snprintf(part, sizeof(part), "%s.part", target);
	to = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
	if (from < 0 || to < 0)
		ret = -errno;
	else
		ret = copy_bytes(from, to);
	if (!ret && (fchmod(to, mode) || fdatasync(to) || rename(part, target)))
		ret = -errno;
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	if (ret && to >= 0)
		unlink(part); /* nobody goes on with it */
	if (ret)
		out_error("cannot copy '%s' to '%s': %s", path, target, strerror(-ret));
	return ret;
}

/* Files that have the bytes of others, which are all here. */
static int copy_same(const char *directory, json_t *files, struct mc_p2p_progress *sum)
{
	const char *relative, *same;
	char path[4608], target[4608];
	json_t *item;
	size_t i;
	int ret;

	json_array_foreach(files, i, item)
	{
		if (!json_object_get(item, "same"))
			continue;
		relative = json_string_value(json_object_get(item, "path"));
		same = json_string_value(json_object_get(item, "same"));
		if (!path_is_safe(relative) || !path_is_safe(same) || !is_in_list(files, same))
			return out_error("the list names a file that is not in it; it is not used"), -EBADMSG;
		snprintf(path, sizeof(path), "%s/%s", directory, same);
		snprintf(target, sizeof(target), "%s/%s", directory, relative);
		ret = make_parents(directory, relative);
		if (!ret)
			ret = copy_file(path, target,
					(mode_t)json_integer_value(json_object_get(item, "mode")) & 0777);
		if (ret)
			return ret;
		sum->bytes += (uint64_t)json_integer_value(json_object_get(item, "bytes"));
		sum->held = sum->bytes;
		sum->reused += (uint64_t)json_integer_value(json_object_get(item, "bytes"));
	}
	return 0;
}

static int make_directories(const char *directory, json_t *files)
{
	const char *relative;
	char path[4608];
	json_t *item;
	size_t i;

	json_array_foreach(files, i, item)
	{
		relative = json_string_value(json_object_get(item, "directory"));
		if (!relative)
			continue;
		if (!path_is_safe(relative))
			return out_error("the list names a path that leads out of it; it is not used"),
			       -EBADMSG;
		snprintf(path, sizeof(path), "%s/%s", directory, relative);
		if (make_parents(directory, relative) || make_directory(path))
			return -EIO;
	}
	return 0;
}

int p2p_tree_try(mc_p2p *store, const char *name, const char *given, struct mc_p2p_progress *progress)
{
	size_t length = strlen(given);
	struct mc_p2p_progress list = {.size = sizeof(list)};
	char object[4608], directory[4096], path[4608];
	json_t *files;
	int ret;

	while (length > 1 && given[length - 1] == '/')
		length--;
	if (length >= sizeof(directory))
		return out_error("'%s' is too long for a path", given), -ENAMETOOLONG;
	snprintf(directory, sizeof(directory), "%.*s", (int)length, given);
	if (strchr(name, '@')) /* a root vouches for one object */
		return -ENOENT;
	snprintf(object, sizeof(object), "%s/" LIST_NAME, name);
	snprintf(path, sizeof(path), "%s." LIST_NAME, directory);
	ret = p2p_get_file(store, object, path, true, &list);
	if (ret)
		return ret;
	files = read_list(path);
	unlink(path);
	if (!files)
		return out_error("the list of '%s' is not one that this program can read", name), -EBADMSG;
	ret = make_directory(directory) ? -EIO : make_directories(directory, files);
	if (!ret)
		ret = get_files(store, name, directory, files, progress);
	if (!ret)
		ret = copy_same(directory, files, progress);
	json_decref(files);
	return ret;
}
