// SPDX-License-Identifier: MIT
/* What the kernel module shows over generic netlink: kept buffers and live objects. No state. */
#include <errno.h>
#include <linux/mooncake.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <string.h>

#include "core/errors.h"
#include "kdev/kdev.h"

struct dump {
	int (*fn)(const struct mci_kdev_entry *entry, void *arg);
	void *arg;
	int ret;
};

static uint32_t number32(struct nlattr *const *a, int i) { return a[i] ? nla_get_u32(a[i]) : 0; }
static uint64_t number64(struct nlattr *const *a, int i) { return a[i] ? nla_get_u64(a[i]) : 0; }

static int on_message(struct nl_msg *msg, void *arg)
{
	/* Lengths are checked here; an unknown attribute of a newer module is passed over. */
	static struct nla_policy policy[MOONCAKE_GENL_A_MAX + 1] = {
		[MOONCAKE_GENL_A_SERIAL] = {.type = NLA_U64},
		[MOONCAKE_GENL_A_KIND] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_STATE] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_LENGTH] = {.type = NLA_U64},
		[MOONCAKE_GENL_A_GENERATION] = {.type = NLA_U64},
		[MOONCAKE_GENL_A_UID] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_PID] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_CONTEXTS] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_MAPPINGS] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_GRANTS] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_DMABUFS] = {.type = NLA_U32},
		[MOONCAKE_GENL_A_CONTENT_ID] = {.minlen = 16},
	};
	struct nlattr *a[MOONCAKE_GENL_A_MAX + 1];
	char name[MOONCAKE_NAME_MAX + 1] = "";
	struct mci_kdev_entry entry;
	struct dump *dump = arg;
	uint32_t state;

	if (dump->ret || genlmsg_parse(nlmsg_hdr(msg), 0, a, MOONCAKE_GENL_A_MAX, policy) < 0)
		return NL_SKIP;
	state = number32(a, MOONCAKE_GENL_A_STATE);
	entry = (struct mci_kdev_entry){
		.kind = mci_kdev_kind_name(number32(a, MOONCAKE_GENL_A_KIND)),
		.serial = number64(a, MOONCAKE_GENL_A_SERIAL),
		.length = number64(a, MOONCAKE_GENL_A_LENGTH),
		.generation = number64(a, MOONCAKE_GENL_A_GENERATION),
		.uid = number32(a, MOONCAKE_GENL_A_UID),
		.pid = number32(a, MOONCAKE_GENL_A_PID),
		.contexts = number32(a, MOONCAKE_GENL_A_CONTEXTS),
		.mappings = number32(a, MOONCAKE_GENL_A_MAPPINGS),
		.grants = number32(a, MOONCAKE_GENL_A_GRANTS),
		.dmabufs = number32(a, MOONCAKE_GENL_A_DMABUFS),
		.revoked = state & MOONCAKE_STATE_REVOKED,
		.kept = state & MOONCAKE_STATE_KEPT,
		.exclusive = state & MOONCAKE_STATE_EXCLUSIVE,
	};
	if (a[MOONCAKE_GENL_A_NAME]) {
		size_t n = (size_t)nla_len(a[MOONCAKE_GENL_A_NAME]);

		n = n > MOONCAKE_NAME_MAX ? MOONCAKE_NAME_MAX : n;
		memcpy(name, nla_data(a[MOONCAKE_GENL_A_NAME]), n);
		entry.name = name;
	}
	if (a[MOONCAKE_GENL_A_CONTENT_ID])
		memcpy(entry.content_id.b, nla_data(a[MOONCAKE_GENL_A_CONTENT_ID]),
		       sizeof(entry.content_id.b));
	dump->ret = dump->fn(&entry, dump->arg);
	return NL_OK; /* the rest is read too, and dropped: a dump cannot be cut short on a socket */
}

static int send_and_receive(struct nl_sock *sock, int family, int command)
{
	struct nl_msg *msg = nlmsg_alloc();
	int ret;

	if (!msg)
		return -NLE_NOMEM;
	if (!genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, NLM_F_DUMP, (uint8_t)command,
			 MOONCAKE_GENL_VERSION))
		ret = -NLE_NOMEM;
	else
		ret = nl_send_auto(sock, msg);
	nlmsg_free(msg);
	return ret < 0 ? ret : nl_recvmsgs_default(sock);
}

int mci_kdev_list(bool kept, int (*fn)(const struct mci_kdev_entry *entry, void *arg), void *arg)
{
	struct dump dump = {.fn = fn, .arg = arg};
	struct nl_sock *sock = nl_socket_alloc();
	int family, ret;

	if (!sock)
		return mci_fail(-ENOMEM, "no memory for a netlink socket");
	ret = genl_connect(sock);
	if (ret) {
		ret = mci_fail(-EOPNOTSUPP, "cannot ask the kernel module for its list: netlink: %s",
			       nl_geterror(ret));
		goto out_free;
	}
	family = genl_ctrl_resolve(sock, MOONCAKE_GENL_NAME);
	if (family < 0) {
		ret = mci_fail(-ENODEV, "the kernel module mooncake is not loaded: the kernel knows no "
					"netlink family of that "
					"name; load it with \"modprobe mooncake\"");
		goto out_free;
	}
	nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, on_message, &dump);
	ret = send_and_receive(sock, family,
			       kept ? MOONCAKE_GENL_CMD_KEPT_GET : MOONCAKE_GENL_CMD_OBJECT_GET);
	if (ret < 0)
		ret = mci_fail(-EIO, "the kernel module's list broke off: netlink: %s", nl_geterror(ret));
	else
		ret = dump.ret;
out_free:
	nl_socket_free(sock);
	return ret;
}
