// SPDX-License-Identifier: MIT
/* Answers to what classic programs ask on our rpc port: JSON in, JSON out. */
#include "engine/classic.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <mooncake/engine.h>

#include "core/errors.h"

/*
 * A TCP target has no queue pairs: every member empty. "ready_ack" is left out, since its presence
 * would announce a capability.
 */
#define DEFAULT_RECORD                                                                                    \
	"{\"local_gid\":\"\",\"local_lid\":0,\"local_nic_path\":\"\",\"payload\":\"\",\"peer_nic_path\":" \
	"\"\","                                                                                           \
	"\"qp_num\":[],\"reply_msg\":\"\"}"

#define NOTIFY_TAKEN "{\"name\":\"\",\"notify_msg\":\"success\"}"
#define NOTIFY_REFUSED "{\"name\":\"\",\"notify_msg\":\"\"}"

static int answer(const char *text, char **reply)
{
	size_t n = strlen(text);
	char *line = malloc(n + 2);

	if (!line)
		return mci_fail(-ENOMEM, "no memory for an answer of %zu bytes", n);
	memcpy(line, text, n);
	line[n] = '\n';
	line[n + 1] = '\0';
	if (n && text[n - 1] == '\n')
		line[n] = '\0';
	*reply = line;
	return 0;
}

static int answer_metadata(const struct mci_classic_handler *handler, char **reply)
{
	char *text = handler->descriptor ? handler->descriptor(handler->arg) : NULL;
	int ret = answer(text ? text : "null", reply);

	free(text);
	return ret;
}

static int answer_notify(const struct mci_classic_handler *handler, const json_t *question, char **reply)
{
	const json_t *name = json_object_get(question, "name"),
		     *message = json_object_get(question, "notify_msg");

	if (!json_is_string(name) || !json_is_string(message))
		return mci_fail(-EBADMSG, "a classic notify lacks \"name\" or \"notify_msg\"");
	if (!handler->notify || json_string_length(name) > MC_NOTIFY_NAME_MAX ||
	    json_string_length(message) > MC_NOTIFY_MESSAGE_MAX ||
	    handler->notify(handler->arg, json_string_value(name), json_string_value(message),
			    json_string_length(message)) < 0)
		return answer(NOTIFY_REFUSED, reply);
	return answer(NOTIFY_TAKEN, reply);
}

int mci_classic_answer(const struct mci_classic_handler *handler, enum mci_classic_type type,
		       const char *json, size_t length, char **reply)
{
	json_t *question = json_loadb(json, length, JSON_DECODE_ANY, NULL);
	int ret;

	if (!question)
		return mci_fail(-EBADMSG, "a classic message of type %u is not JSON", (unsigned int)type);
	switch (type) {
	case MCI_CLASSIC_CONNECTION:
		ret = answer(DEFAULT_RECORD, reply);
		break;
	case MCI_CLASSIC_METADATA: /* the asker's own descriptor; of no use here */
		ret = answer_metadata(handler, reply);
		break;
	case MCI_CLASSIC_NOTIFY:
		ret = answer_notify(handler, question, reply);
		break;
	case MCI_CLASSIC_PROBE:
		ret = answer("{\"status\":\"success\"}", reply);
		break;
	default:
		ret = mci_fail(-EBADMSG, "classic messages of type %u are not known", (unsigned int)type);
	}
	json_decref(question);
	return ret;
}
