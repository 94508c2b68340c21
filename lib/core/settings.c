// SPDX-License-Identifier: MIT
/*
 * Loading of settings: file, then environment. The YAML is read as events, two levels deep, without anchors,
 * tags or lists, so that a hostile file can cost at most its own length. No state of its own.
 */
#include "core/settings.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yaml.h>

#include "core/errors.h"
#include "core/log.h"
#include "core/words.h"

#define FILE_MAX (1u << 20)
#define TEXT_MAX 4096
#define SETTINGS_MAX 64
#define WORD_MAX MCI_WORD_MAX

struct value {
	char *text;	 /* NULL = unset */
	uint64_t number; /* of numbers and bools */
	const char *origin;
	long line; /* in the file, 0 = not there */
};

struct mci_settings {
	struct value values[SETTINGS_MAX];
};

static const char *const origin_default = "default", *const origin_file = "file";

/* "; did you mean engine.port?" or what there is. A right word in the wrong section counts as near. */
static void suggest(const char *section, const char *key, char *out, size_t size)
{
	const struct mci_setting *nearest = NULL;
	unsigned int best = 4;
	char full[2 * WORD_MAX + 2];

	snprintf(full, sizeof(full), "%.*s.%.*s", WORD_MAX, section, WORD_MAX, key);
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		const char *bare = strchr(s->key, '.') + 1;
		unsigned int d = mci_word_distance(full, s->key), e = mci_word_distance(key, bare) + 1;

		if (e < d)
			d = e;
		if (d < best) {
			best = d;
			nearest = s;
		}
	}
	if (nearest)
		snprintf(out, size, "; did you mean %s?", nearest->key);
	else
		snprintf(out, size, "; \"mooncake config show\" lists all");
}

static bool section_exists(const char *section, char *near, size_t size)
{
	size_t n = strlen(section);
	unsigned int best = 4;

	snprintf(near, size, "; sections are engine, security, metadata, tcp, log");
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		char name[WORD_MAX];
		unsigned int d;

		snprintf(name, sizeof(name), "%.*s", (int)(strchr(s->key, '.') - s->key), s->key);
		if (strlen(name) == n && !strcmp(name, section))
			return true;
		d = mci_word_distance(section, name);
		if (d < best) {
			best = d;
			snprintf(near, size, "; did you mean %s?", name);
		}
	}
	return false;
}

static int parse_bool(const char *text, uint64_t *value)
{
	static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off",
										    "0"};

	for (unsigned int i = 0; i < 4; i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*value = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_number(const char *text, uint64_t *value)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return -EINVAL;
	}
	*value = v;
	return 0;
}

static bool is_choice(const char *choices, const char *text)
{
	size_t n = strlen(text);

	for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL) {
		if (!strncasecmp(c, text, n) && (c[n] == '|' || !c[n]) && n)
			return true;
	}
	return false;
}

/* @where: "file:line: engine.port" or "$MOONCAKE_PORT (engine.port)" */
static int set_value(struct value *v, const struct mci_setting *s, const char *text, const char *origin,
		     const char *where)
{
	uint64_t number = 0;
	char *copy;

	switch (s->type) {
	case MCI_SETTING_TEXT:
		for (const char *p = text; *p; p++) {
			if ((unsigned char)*p < ' ' || *p == 0x7f)
				return mci_fail(-EINVAL, "%s: has a control character (0x%02x) in it", where,
						(unsigned char)*p);
		}
		if (strlen(text) > TEXT_MAX)
			return mci_fail(-EINVAL, "%s: has %zu bytes; want at most %d", where, strlen(text),
					TEXT_MAX);
		if (s->choices && !is_choice(s->choices, text))
			return mci_fail(-EINVAL, "%s: \"%.100s\" is none of %s", where, text, s->choices);
		break;
	case MCI_SETTING_NUMBER:
		if (parse_number(text, &number) || number < s->min || number > s->max)
			return mci_fail(-EINVAL, "%s: \"%.100s\" is not a whole number from %llu to %llu",
					where, text, (unsigned long long)s->min, (unsigned long long)s->max);
		break;
	case MCI_SETTING_BOOL:
		if (parse_bool(text, &number))
			return mci_fail(-EINVAL, "%s: \"%.100s\" is not true or false", where, text);
		break;
	}
	copy = strdup(text);
	if (!copy)
		return mci_fail(-ENOMEM, "%s: no memory", where);
	free(v->text);
	v->text = copy;
	v->number = number;
	v->origin = origin;
	return 0;
}

static const struct mci_setting *find(const char *key)
{
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		if (!strcmp(s->key, key))
			return s;
	}
	return NULL;
}

struct parser {
	yaml_parser_t yaml;
	yaml_event_t event;
	bool has_event;
	const char *file;
	struct mci_settings *settings;
};

static long line_of(const struct parser *p) { return (long)p->event.start_mark.line + 1; }

static int next(struct parser *p)
{
	if (p->has_event)
		yaml_event_delete(&p->event);
	p->has_event = yaml_parser_parse(&p->yaml, &p->event);
	if (p->has_event)
		return 0;
	return mci_fail(-EINVAL, "%s:%lu: not valid YAML: %s", p->file,
			(unsigned long)p->yaml.problem_mark.line + 1,
			p->yaml.problem ? p->yaml.problem : "cannot be read");
}

/* A plain word, no longer than @size - 1, copied to @out. */
static int take_word(struct parser *p, const char *what, char *out, size_t size)
{
	const yaml_event_t *e = &p->event;

	if (e->type != YAML_SCALAR_EVENT || !e->data.scalar.length || e->data.scalar.length >= size ||
	    strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
		return mci_fail(-EINVAL, "%s:%ld: want the name of a %s here", p->file, line_of(p), what);
	memcpy(out, e->data.scalar.value, e->data.scalar.length + 1);
	return 0;
}

static int parse_value(struct parser *p, const struct mci_setting *s, long line)
{
	struct value *v = &p->settings->values[s - mci_setting_table];
	const yaml_event_t *e = &p->event;
	char where[600], *text;
	bool plain;

	snprintf(where, sizeof(where), "%s:%ld: %s", p->file, line, s->key);
	if (v->line)
		return mci_fail(-EINVAL, "%s: is set twice, in line %ld already", where, v->line);
	if (e->type == YAML_SEQUENCE_START_EVENT)
		return mci_fail(-EINVAL,
				"%s: want one value, not a list; several go into one text with commas",
				where);
	if (e->type == YAML_MAPPING_START_EVENT)
		return mci_fail(-EINVAL, "%s: want one value, not a section", where);
	if (e->type != YAML_SCALAR_EVENT || e->data.scalar.anchor || e->data.scalar.tag)
		return mci_fail(-EINVAL, "%s: anchors, aliases and tags are not supported", where);
	text = (char *)e->data.scalar.value;
	if (strlen(text) != e->data.scalar.length)
		return mci_fail(-EINVAL, "%s: has a control character (0x00) in it", where);
	plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	v->line = line;
	if (plain && (!*text || !strcmp(text, "~") || !strcasecmp(text, "null")))
		return 0; /* as if it were not there */
	if (!plain && s->type != MCI_SETTING_TEXT)
		return mci_fail(-EINVAL, "%s: want a %s, not a text in quotes", where,
				s->type == MCI_SETTING_BOOL ? "true or false" : "number");
	return set_value(v, s, text, origin_file, where);
}

static int parse_section(struct parser *p)
{
	char section[WORD_MAX], key[WORD_MAX], full[2 * WORD_MAX + 2], hint[160];
	const struct mci_setting *s;
	long line = line_of(p);
	int ret;

	ret = take_word(p, "section", section, sizeof(section));
	if (ret)
		return ret;
	if (!section_exists(section, hint, sizeof(hint)))
		return mci_fail(-EINVAL, "%s:%ld: \"%s\" is not a section%s", p->file, line, section, hint);
	ret = next(p);
	if (ret)
		return ret;
	if (p->event.type == YAML_SCALAR_EVENT && !p->event.data.scalar.length)
		return 0; /* "engine:" with all lines below commented out */
	if (p->event.type != YAML_MAPPING_START_EVENT || p->event.data.mapping_start.anchor ||
	    p->event.data.mapping_start.tag)
		return mci_fail(-EINVAL, "%s:%ld: section %s must hold lines \"key: value\"", p->file, line,
				section);
	for (;;) {
		ret = next(p);
		if (ret)
			return ret;
		if (p->event.type == YAML_MAPPING_END_EVENT)
			return 0;
		line = line_of(p);
		ret = take_word(p, "setting", key, sizeof(key));
		if (ret)
			return ret;
		snprintf(full, sizeof(full), "%s.%s", section, key);
		s = find(full);
		if (!s) {
			suggest(section, key, hint, sizeof(hint));
			return mci_fail(-EINVAL, "%s:%ld: %s is not a setting%s", p->file, line, full, hint);
		}
		ret = next(p);
		if (!ret)
			ret = parse_value(p, s, line);
		if (ret)
			return ret;
	}
}

static int parse_document(struct parser *p)
{
	int ret = next(p); /* stream start */

	if (!ret)
		ret = next(p);
	if (ret || p->event.type == YAML_STREAM_END_EVENT)
		return ret; /* nothing but comments */
	ret = next(p);
	if (ret)
		return ret;
	if (p->event.type == YAML_SCALAR_EVENT && !p->event.data.scalar.length) {
		ret = next(p);
	} else if (p->event.type != YAML_MAPPING_START_EVENT || p->event.data.mapping_start.anchor ||
		   p->event.data.mapping_start.tag) {
		return mci_fail(-EINVAL,
				"%s:%ld: want sections (\"engine:\") with lines \"key: value\" below",
				p->file, line_of(p));
	} else {
		for (ret = next(p); !ret && p->event.type != YAML_MAPPING_END_EVENT;
		     ret = ret ? ret : next(p))
			ret = parse_section(p);
		if (!ret)
			ret = next(p);
	}
	if (!ret)
		ret = next(p); /* past the end of the document */
	if (!ret && p->event.type != YAML_STREAM_END_EVENT)
		return mci_fail(-EINVAL, "%s:%ld: a second document begins here; want one", p->file,
				line_of(p));
	return ret;
}

static struct mci_settings *new_settings(void)
{
	struct mci_settings *settings = calloc(1, sizeof(*settings));

	for (const struct mci_setting *s = mci_setting_table; settings && s->key; s++) {
		struct value *v = &settings->values[s - mci_setting_table];

		assert(s - mci_setting_table < SETTINGS_MAX);
		v->origin = origin_default;
		if (s->fallback && set_value(v, s, s->fallback, origin_default, s->key)) {
			mci_settings_free(settings);
			return NULL;
		}
	}
	return settings;
}

static int check_relations(const struct mci_settings *settings, const char *name)
{
	if (mci_settings_number(settings, "engine.port_low") >
	    mci_settings_number(settings, "engine.port_high"))
		return mci_fail(-EINVAL, "%s: engine.port_low (%s) is above engine.port_high (%s)", name,
				mci_settings_text(settings, "engine.port_low"),
				mci_settings_text(settings, "engine.port_high"));
	if (!mci_settings_text(settings, "security.cert_file") !=
	    !mci_settings_text(settings, "security.cert_key_file"))
		return mci_fail(
			-EINVAL,
			"%s: security.cert_file and security.cert_key_file need each other; only %s is set",
			name,
			mci_settings_text(settings, "security.cert_file") ? "cert_file" : "cert_key_file");
	return 0;
}

static int parse_into(const char *text, size_t length, const char *name, struct mci_settings *settings)
{
	struct parser p = {.file = name, .settings = settings};
	int ret;

	if (!yaml_parser_initialize(&p.yaml))
		return mci_fail(-ENOMEM, "%s: no memory to read it", name);
	yaml_parser_set_input_string(&p.yaml, (const unsigned char *)text, length);
	ret = parse_document(&p);
	if (p.has_event)
		yaml_event_delete(&p.event);
	yaml_parser_delete(&p.yaml);
	return ret;
}

int mci_settings_parse(const char *text, size_t length, const char *name, struct mci_settings **settings)
{
	struct mci_settings *made;
	int ret;

	if (length > FILE_MAX)
		return mci_fail(-EFBIG, "%s: has more than %u bytes; is it a configuration?", name, FILE_MAX);
	made = new_settings();
	if (!made)
		return mci_fail(-ENOMEM, "%s: no memory to read it", name);
	ret = parse_into(text, length, name, made);
	if (!ret)
		ret = check_relations(made, name);
	if (ret) {
		mci_settings_free(made);
		return ret;
	}
	*settings = made;
	return 0;
}

/* All of a plain file; a pipe could keep us waiting for ever. */
static int read_file(const char *path, char **text, size_t *length)
{
	struct stat st;
	size_t n = 0;
	char *buf;
	int fd, ret;

	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return mci_fail(-errno, "cannot open the configuration %s: %s; %s", path, strerror(errno),
				errno == ENOENT ? "check the path, or give none for the defaults (--config, "
						  "$MOONCAKE_CONFIG)"
						: "it must be readable for this user");
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		ret = mci_fail(-EINVAL, "the configuration %s is not a plain file", path);
		goto err_close;
	}
	buf = malloc(FILE_MAX + 1);
	if (!buf) {
		ret = mci_fail(-ENOMEM, "no memory to read the configuration %s", path);
		goto err_close;
	}
	while (n <= FILE_MAX) {
		ssize_t got = read(fd, buf + n, FILE_MAX + 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			ret = mci_fail(-errno, "cannot read the configuration %s: %s", path, strerror(errno));
			goto err_free;
		}
		if (!got)
			break;
		n += (size_t)got;
	}
	close(fd);
	*text = buf;
	*length = n;
	return 0;
err_free:
	free(buf);
err_close:
	close(fd);
	return ret;
}

/* A password in a file that all may read is no secret. */
static void warn_of_secrets(const struct mci_settings *settings, const char *path)
{
	struct stat st;

	if (stat(path, &st) || !(st.st_mode & (S_IRGRP | S_IROTH)))
		return;
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		if (s->secret && settings->values[s - mci_setting_table].origin == origin_file)
			mci_warn("%s has %s in it and can be read by others (mode %04o): chmod 600 it", path,
				 s->key, st.st_mode & 07777);
	}
}

static int take_variable(struct mci_settings *settings, const struct mci_setting *s, const char *name,
			 bool classic)
{
	const char *text = getenv(name);
	char where[160];

	if (!text || !*text)
		return 1;
	/* Classic tools know levels that we do not; that is no reason to refuse. */
	if (classic && s->choices && !is_choice(s->choices, text)) {
		mci_warn("%s=%.40s is ignored: want one of %s", name, text, s->choices);
		return 1;
	}
	snprintf(where, sizeof(where), "$%s (%s)", name, s->key);
	return set_value(&settings->values[s - mci_setting_table], s, text, name, where);
}

static int take_environment(struct mci_settings *settings)
{
	for (const struct mci_setting *s = mci_setting_table; s->key; s++) {
		int ret = s->env ? take_variable(settings, s, s->env, false) : 1;

		if (ret == 1 && s->classic_env)
			ret = take_variable(settings, s, s->classic_env, true);
		if (ret == 1 && s->classic_env_old)
			ret = take_variable(settings, s, s->classic_env_old, true);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int mci_settings_load(const char *path, struct mci_settings **settings)
{
	struct mci_settings *made;
	size_t length = 0;
	char *text = NULL;
	int ret;

	if (!path)
		path = getenv("MOONCAKE_CONFIG");
	if (path && !*path)
		path = NULL;
	made = new_settings();
	if (!made)
		return mci_fail(-ENOMEM, "no memory for the settings");
	if (path) {
		ret = read_file(path, &text, &length);
		if (!ret && length > FILE_MAX)
			ret = mci_fail(-EFBIG, "the configuration %s has more than %u bytes; is it one?",
				       path, FILE_MAX);
		if (!ret)
			ret = parse_into(text, length, path, made);
		if (!ret)
			warn_of_secrets(made, path);
		free(text);
		if (ret)
			goto err_free;
	}
	ret = take_environment(made);
	if (!ret)
		ret = check_relations(made, path ? path : "environment");
	if (ret)
		goto err_free;
	*settings = made;
	return 0;
err_free:
	mci_settings_free(made);
	return ret;
}

void mci_settings_free(struct mci_settings *settings)
{
	if (!settings)
		return;
	for (unsigned int i = 0; i < SETTINGS_MAX; i++)
		free(settings->values[i].text);
	free(settings);
}

static const struct value *value_of(const struct mci_settings *settings, const char *key)
{
	const struct mci_setting *s = find(key);

	assert(s);
	return &settings->values[s - mci_setting_table];
}

const char *mci_settings_text(const struct mci_settings *settings, const char *key)
{
	return value_of(settings, key)->text;
}

uint64_t mci_settings_number(const struct mci_settings *settings, const char *key)
{
	return value_of(settings, key)->number;
}

bool mci_settings_bool(const struct mci_settings *settings, const char *key)
{
	return value_of(settings, key)->number;
}

int mci_settings_auto(const struct mci_settings *settings, const char *key, long max, int *out)
{
	const char *text = mci_settings_text(settings, key);
	char *end;
	long value;

	*out = -1;
	if (!text || !*text || !strcmp(text, "auto") || !strcmp(text, "-1"))
		return 0;
	value = strtol(text, &end, 10);
	if (*end || value < 0 || value > max)
		return mci_fail(-EINVAL, "%s is \"%s\" (from %s); it must be auto, or a number from 0 to %ld",
				key, text, mci_settings_origin(settings, key), max);
	*out = (int)value;
	return 0;
}

const char *mci_settings_origin(const struct mci_settings *settings, const char *key)
{
	return value_of(settings, key)->origin;
}
