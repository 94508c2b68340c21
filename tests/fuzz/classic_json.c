// SPDX-License-Identifier: MIT
/* Classic messages: questions to our rpc port, and replies to ours. First byte: type. */
#include <stdlib.h>
#include <string.h>

#include "engine/classic.h"
#include "transport/classic/classic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *give_descriptor(void *arg)
{
	(void)arg;
	return strdup("{}");
}

static int take_notify(void *arg, const char *name, const char *message, size_t length)
{
	(void)arg;
	if (strlen(name) > MC_NOTIFY_NAME_MAX || strlen(message) != length || length > MC_NOTIFY_MESSAGE_MAX)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct mci_classic_handler handler = {give_descriptor, take_notify, NULL};
	char *reply = NULL;
	size_t length;

	if (size >= MCI_CLASSIC_PREFIX &&
	    !mci_classic_prefix(data, (enum mci_classic_type)data[8], CLASSIC_REPLY_MAX, &length) &&
	    length >= CLASSIC_REPLY_MAX)
		abort();
	if (!size)
		return 0;
	if (!mci_classic_answer(&handler, (enum mci_classic_type)data[0], (const char *)data + 1, size - 1,
				&reply)) {
		if (reply[strlen(reply) - 1] != '\n')
			abort();
		free(reply);
	}
	mci_classic_notify_reply((const char *)data + 1, size - 1);
	return 0;
}
