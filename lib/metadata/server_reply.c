// SPDX-License-Identifier: MIT
/* Answers of the metadata server: texts as classic servers send them, values by reference, lists as JSON. */
#include "metadata/server_request.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/uuid.h"

/* A list on its way out: charged to the budget until it is sent. */
struct held {
	struct mci_budget *budget;
	size_t length;
	char *text;
};

static enum MHD_Result queue(struct mci_http_request *request, unsigned int status,
			     struct MHD_Response *response, const char *type)
{
	enum MHD_Result ret;

	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MCI_HTTP_MARK, request->mark);
	MHD_add_response_header(response, "Content-Type", type);
	if (status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, "Allow", "GET, HEAD, PUT, DELETE, POST");
	if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
		MHD_add_response_header(response, "Retry-After", "1");
	ret = MHD_queue_response(request->connection, status, response);
	MHD_destroy_response(response);
	return ret;
}

static void add_version(struct MHD_Response *response, uint64_t version)
{
	char tag[32];

	if (!response || !version)
		return;
	snprintf(tag, sizeof(tag), "\"%" PRIu64 "\"", version);
	MHD_add_response_header(response, "ETag", tag);
}

enum MHD_Result mci_reply_version(struct mci_http_request *request, unsigned int status, const char *text,
				  uint64_t version)
{
	struct MHD_Response *response;

	response = MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
	add_version(response, version);
	return queue(request, status, response, "text/plain; charset=utf-8");
}

enum MHD_Result mci_reply_text(struct mci_http_request *request, unsigned int status, const char *text)
{
	return mci_reply_version(request, status, text, 0);
}

static void release_blob(void *arg) { mci_blob_put(arg); }

enum MHD_Result mci_reply_value(struct mci_http_request *request, const struct mci_keystore_item *item)
{
	struct MHD_Response *response;

	mci_blob_get(item->value);
	response = MHD_create_response_from_buffer_with_free_callback_cls(
		item->value->length, item->value->bytes, release_blob, item->value);
	if (!response)
		mci_blob_put(item->value);
	add_version(response, item->version);
	return queue(request, MHD_HTTP_OK, response, "application/json");
}

/* A value that is no UTF-8 cannot be a JSON string: it goes as hex under another name. */
static int add_value(json_t *entry, const struct mci_blob *value)
{
	json_t *text = json_stringn(value->bytes, value->length);
	char *hex;
	int ret;

	if (text)
		return json_object_set_new(entry, "value", text);
	hex = malloc(2 * (size_t)value->length + 1);
	if (!hex)
		return -1;
	mci_hex(value->bytes, value->length, hex);
	ret = json_object_set_new(entry, "value_hex", json_string(hex));
	free(hex);
	return ret;
}

static json_t *list_json(const struct mci_keystore_item *items, size_t count)
{
	json_t *array = json_array();
	size_t i;

	for (i = 0; array && i < count; i++) {
		json_t *entry = json_object();

		if (!entry || json_object_set_new(entry, "key", json_string(items[i].key)) ||
		    add_value(entry, items[i].value) ||
		    json_object_set_new(entry, "version", json_integer((json_int_t)items[i].version))) {
			json_decref(entry);
			json_decref(array);
			return NULL;
		}
		json_array_append_new(array, entry);
	}
	return array;
}

static void release_held(void *arg)
{
	struct held *held = arg;

	mci_budget_give(held->budget, held->length);
	free(held->text);
	free(held);
}

/* Takes over @text. NULL: no memory, or too much of it is in use. */
static struct MHD_Response *held_response(struct mci_budget *budget, char *text)
{
	struct held *held = malloc(sizeof(*held));
	struct MHD_Response *response;

	if (!held || !text)
		goto err_free;
	held->text = text;
	held->length = strlen(text);
	held->budget = budget;
	if (!mci_budget_take(budget, held->length))
		goto err_free;
	response = MHD_create_response_from_buffer_with_free_callback_cls(held->length, text, release_held,
									  held);
	if (!response)
		release_held(held);
	return response;

err_free:
	free(held);
	free(text);
	return NULL;
}

enum MHD_Result mci_reply_list(struct mci_http_request *request, struct mci_keystore_item *items,
			       size_t count, bool more)
{
	json_t *array = list_json(items, count);
	struct MHD_Response *response;

	response = held_response(mci_keystore_budget(request->store),
				 array ? json_dumps(array, JSON_COMPACT) : NULL);
	json_decref(array);
	if (!response)
		return mci_reply_text(
			request, MHD_HTTP_SERVICE_UNAVAILABLE,
			"the metadata server has too much on its way out; ask again in a second");
	if (more)
		MHD_add_response_header(response, MCI_HTTP_MORE, "1");
	return queue(request, MHD_HTTP_OK, response, "application/json");
}

enum MHD_Result mci_reply_watch(struct mci_http_request *request, uint64_t version, bool changed)
{
	struct MHD_Response *response;
	char text[80];

	snprintf(text, sizeof(text), "{\"changed\":%s,\"version\":%" PRIu64 "}", changed ? "true" : "false",
		 version);
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	return queue(request, MHD_HTTP_OK, response, "application/json");
}
