// SPDX-License-Identifier: MIT
/* What the rdma transport is to be like: attributes first, then the configuration. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* {location: [[near], [other]]}, each a list of names. */
static bool is_matrix(const json_t *json)
{
	const char *location;
	const json_t *pair, *name;
	size_t i, j;

	if (!json_is_object(json) || !json_object_size(json))
		return false;
	json_object_foreach((json_t *)(uintptr_t)json, location, pair)
	{
		if (!json_is_array(pair) || !json_array_size(pair) || json_array_size(pair) > 2)
			return false;
		for (i = 0; i < json_array_size(pair); i++) {
			if (!json_is_array(json_array_get(pair, i)))
				return false;
			json_array_foreach(json_array_get(pair, i), j,
					   name) if (!json_is_string(name)) return false;
		}
	}
	return true;
}

static int load_matrix(const char *given, char **text)
{
	bool inline_text = given[strspn(given, " \t\n")] == '{';
	json_error_t error;
	json_t *json;
	int ret = 0;

	json = inline_text ? json_loads(given, 0, &error) : json_load_file(given, 0, &error);
	if (!json)
		ret = mci_fail(-EINVAL,
			       "the NIC priority matrix %s cannot be read: %s (line %d); `mooncake topology "
			       "--matrix` prints one",
			       inline_text ? "that was given" : given, error.text, error.line);
	else if (!is_matrix(json))
		ret = mci_fail(-EINVAL,
			       "the NIC priority matrix %s is not of the form {\"cpu:0\": [[\"near\"], "
			       "[\"other\"]], ...}; `mooncake topology --matrix` prints one",
			       inline_text ? "that was given" : given);
	else
		*text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	return ret ? ret : *text ? 0 : mci_fail(-ENOMEM, "no memory for the NIC priority matrix");
}

/* "a,b": the NICs that the matrix names, each once, in order; malloc()ed. */
static char *names_of(const char *matrix)
{
	json_t *json = json_loads(matrix, 0, NULL), *seen = json_object(), *pair, *name;
	const char *location, *key;
	size_t i, j, size = 1;
	char *text;

	json_object_foreach(json, location, pair) for (i = 0; i < json_array_size(pair); i++)
		json_array_foreach(json_array_get(pair, i), j, name)
			json_object_set_new(seen, json_string_value(name), json_true());
	json_object_foreach(seen, key, name) size += strlen(key) + 1;
	text = calloc(1, size);
	if (text)
		json_object_foreach(seen, key, name) strcat(strcat(text, *text ? "," : ""), key);
	json_decref(json);
	json_decref(seen);
	return text;
}

int mci_rdma_options(struct mc_engine *engine, const struct mc_engine_attr *attr,
		     struct mci_rdma_options *options)
{
	const struct mci_settings *s = engine->settings;
	const char *devices = attr->devices ? attr->devices : mci_settings_text(s, "rdma.devices");
	/* Of what classic calls a filter not everything has to be there. */
	bool filter = !attr->devices && !strcmp(mci_settings_origin(s, "rdma.devices"), "MC_TE_FILTERS");
	const char *matrix = attr->nic_matrix ? attr->nic_matrix : mci_settings_text(s, "rdma.matrix");
	int ret;

	*options = (struct mci_rdma_options){
		.port = (uint32_t)mci_settings_number(s, "rdma.port"),
		.pkey_index = (uint32_t)mci_settings_number(s, "rdma.pkey_index"),
		.mtu = (uint32_t)mci_settings_number(s, "rdma.mtu"),
		.service_level = (uint32_t)mci_settings_number(s, "rdma.service_level"),
		.endpoints_max = (uint32_t)mci_settings_number(s, "rdma.endpoints_max"),
		.qps = (uint32_t)mci_settings_number(s, "rdma.qps"),
		.timeout = (uint32_t)mci_settings_number(s, "rdma.timeout"),
	};
	ret = mci_settings_auto(s, "rdma.gid_index", 255, &options->gid_index);
	if (!ret)
		ret = mci_settings_auto(s, "rdma.traffic_class", 255, &options->traffic_class);
	if (!ret && matrix && *matrix)
		ret = load_matrix(matrix, &engine->rdma_matrix);
	options->devices_by_matrix = engine->rdma_matrix && !(devices && *devices);
	if (!ret && ((devices && *devices) || options->devices_by_matrix)) {
		engine->rdma_devices = options->devices_by_matrix ? names_of(engine->rdma_matrix) : strdup(devices);
		if (!engine->rdma_devices)
			ret = mci_fail(-ENOMEM, "no memory for the names of NICs");
	}
	options->devices_by_matrix |= filter;
	options->devices = engine->rdma_devices;
	options->matrix = engine->rdma_matrix;
	return ret;
}
