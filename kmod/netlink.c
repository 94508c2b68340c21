// SPDX-License-Identifier: GPL-2.0
/* The generic netlink family "mooncake". Dumps resume by serial number; nothing correct hangs on it. */
#include <linux/cred.h>
#include <linux/pid_namespace.h>
#include <net/genetlink.h>
#include "compat.h"
#include "grant.h"
#include "kept.h"
#include "netlink.h"
#include "object.h"
#include "stat.h"

static struct genl_family mck_family;

static const struct nla_policy mck_policy[MOONCAKE_GENL_A_MAX + 1] = {
	[MOONCAKE_GENL_A_SERIAL] = { .type = NLA_U64 },
};

/* What a dump remembers between its messages, in the callback's ctx. */
struct mck_dump {
	u64 serial; /* next to show */
	kuid_t uid;
	bool all;
	bool kept; /* kept buffers only */
};

static struct mck_dump *mck_dump(struct netlink_callback *cb)
{
	BUILD_BUG_ON(sizeof(struct mck_dump) > sizeof(cb->args));
	return (struct mck_dump *)cb->args;
}

/* May somebody of @uid see @object: the user who made it, and administrators. */
static bool mck_visible(const struct mck_object *object, kuid_t uid, bool all)
{
	return all || uid_eq(object->uid, uid);
}

/* The process that holds it exclusively, else the one that made it, if it still lives. */
static u32 mck_holder(struct mck_object *object)
{
	struct pid *pid = object->pid;
	struct mck_handle *handle;
	u32 nr;

	list_for_each_entry(handle, &object->handles, node)
		if (handle->exclusive && mck_handle_open(handle))
			pid = handle->pid;
	rcu_read_lock();
	nr = pid_task(pid, PIDTYPE_TGID) ? pid_nr_ns(pid, task_active_pid_ns(current)) : 0;
	rcu_read_unlock();
	return nr;
}

static int mck_put_state(struct sk_buff *skb, struct mck_object *object)
{
	u32 dmabufs;
	int ret;

	down_read(&object->lock);
	mck_stat_attached(object, &dmabufs);
	ret = nla_put_u32(skb, MOONCAKE_GENL_A_STATE, mck_stat_state(object)) ||
	      nla_put_u64_64bit(skb, MOONCAKE_GENL_A_GENERATION, object->generation, MOONCAKE_GENL_A_PAD) ||
	      nla_put_u32(skb, MOONCAKE_GENL_A_PID, mck_holder(object)) ||
	      nla_put_u32(skb, MOONCAKE_GENL_A_CONTEXTS, mck_stat_contexts(object)) ||
	      nla_put_u32(skb, MOONCAKE_GENL_A_GRANTS, mck_grant_count(object)) ||
	      nla_put_u32(skb, MOONCAKE_GENL_A_DMABUFS, dmabufs) ||
	      nla_put(skb, MOONCAKE_GENL_A_CONTENT_ID, MOONCAKE_KEY_SIZE, object->content_id);
	up_read(&object->lock);
	return ret ? -EMSGSIZE : 0;
}

static int mck_put_object(struct sk_buff *skb, struct mck_object *object)
{
	char name[MOONCAKE_NAME_MAX];
	u32 length = mck_kept_name(object, name);

	if (nla_put_u64_64bit(skb, MOONCAKE_GENL_A_SERIAL, object->serial, MOONCAKE_GENL_A_PAD) ||
	    nla_put_u32(skb, MOONCAKE_GENL_A_KIND, object->ops->kind) ||
	    nla_put_u64_64bit(skb, MOONCAKE_GENL_A_LENGTH, object->length, MOONCAKE_GENL_A_PAD) ||
	    nla_put_u32(skb, MOONCAKE_GENL_A_UID, from_kuid_munged(current_user_ns(), object->uid)) ||
	    nla_put_u32(skb, MOONCAKE_GENL_A_MAPPINGS, atomic_read(&object->mappings)) ||
	    (length && nla_put(skb, MOONCAKE_GENL_A_NAME, length, name)))
		return -EMSGSIZE;
	return mck_put_state(skb, object);
}

static int mck_put_message(struct sk_buff *skb, u32 portid, u32 seq, int flags, u8 cmd, struct mck_object *object)
{
	void *head = genlmsg_put(skb, portid, seq, &mck_family, flags, cmd);

	if (!head)
		return -EMSGSIZE;
	if (mck_put_object(skb, object)) {
		genlmsg_cancel(skb, head);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, head);
	return 0;
}

static int mck_dump_begin(struct netlink_callback *cb, bool kept)
{
	struct mck_dump *dump = mck_dump(cb);

	dump->serial = 0;
	dump->uid = current_euid();
	dump->all = netlink_capable(cb->skb, CAP_SYS_ADMIN);
	dump->kept = kept;
	return 0;
}

static int mck_dump_objects_start(struct netlink_callback *cb)
{
	return mck_dump_begin(cb, false);
}

static int mck_dump_kept_start(struct netlink_callback *cb)
{
	return mck_dump_begin(cb, true);
}

static int mck_dump_next(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct mck_dump *dump = mck_dump(cb);
	struct mck_object *object;
	int ret;

	while ((object = mck_object_next(dump->serial))) {
		ret = 0;
		if (mck_visible(object, dump->uid, dump->all) && (!dump->kept || READ_ONCE(object->kept)))
			ret = mck_put_message(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, NLM_F_MULTI,
					      dump->kept ? MOONCAKE_GENL_CMD_KEPT_GET :
							   MOONCAKE_GENL_CMD_OBJECT_GET,
					      object);
		if (!ret)
			dump->serial = object->serial + 1;
		mck_object_put(object);
		if (ret)
			break;
		cond_resched();
	}
	return skb->len;
}

static int mck_do_get(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *serial = info->attrs[MOONCAKE_GENL_A_SERIAL];
	struct mck_object *object;
	struct sk_buff *reply;
	int ret = -ENOENT;

	if (!serial)
		return -EINVAL;
	object = mck_object_next(nla_get_u64(serial));
	if (!object)
		return -ENOENT;
	if (object->serial != nla_get_u64(serial) ||
	    !mck_visible(object, current_euid(), netlink_capable(skb, CAP_SYS_ADMIN)))
		goto out_put;
	reply = genlmsg_new(NLMSG_GOODSIZE, GFP_KERNEL);
	ret = -ENOMEM;
	if (!reply)
		goto out_put;
	ret = mck_put_message(reply, info->snd_portid, info->snd_seq, 0, MOONCAKE_GENL_CMD_OBJECT_GET, object);
	if (ret)
		nlmsg_free(reply);
	else
		ret = genlmsg_reply(reply, info);
out_put:
	mck_object_put(object);
	return ret;
}

static const struct genl_ops mck_genl_ops[] = {
	{
		.cmd = MOONCAKE_GENL_CMD_OBJECT_GET,
		.doit = mck_do_get,
		.start = mck_dump_objects_start,
		.dumpit = mck_dump_next,
	},
	{
		.cmd = MOONCAKE_GENL_CMD_KEPT_GET,
		.start = mck_dump_kept_start,
		.dumpit = mck_dump_next,
	},
};

static const struct genl_multicast_group mck_groups[] = {
	{ .name = MOONCAKE_GENL_GROUP, MCK_GENL_ADMIN_GROUP },
};

static struct genl_family mck_family __ro_after_init = {
	.name = MOONCAKE_GENL_NAME,
	.version = MOONCAKE_GENL_VERSION,
	.maxattr = MOONCAKE_GENL_A_MAX,
	.policy = mck_policy,
	.netnsok = true,
	.parallel_ops = true,
	.module = THIS_MODULE,
	.ops = mck_genl_ops,
	.n_ops = ARRAY_SIZE(mck_genl_ops),
	.mcgrps = mck_groups,
	.n_mcgrps = ARRAY_SIZE(mck_groups),
};

/* No names and no users: on older kernels anybody may listen. */
void mck_netlink_event(struct mck_object *object, u32 event)
{
	struct sk_buff *skb;
	void *head;

	if (!genl_has_listeners(&mck_family, &init_net, 0))
		return;
	skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!skb)
		return;
	head = genlmsg_put(skb, 0, 0, &mck_family, 0, MOONCAKE_GENL_CMD_EVENT);
	if (!head || nla_put_u32(skb, MOONCAKE_GENL_A_EVENT, event) ||
	    nla_put_u64_64bit(skb, MOONCAKE_GENL_A_SERIAL, object->serial, MOONCAKE_GENL_A_PAD) ||
	    nla_put_u32(skb, MOONCAKE_GENL_A_KIND, object->ops->kind) ||
	    nla_put_u64_64bit(skb, MOONCAKE_GENL_A_LENGTH, object->length, MOONCAKE_GENL_A_PAD)) {
		nlmsg_free(skb);
		return;
	}
	genlmsg_end(skb, head);
	genlmsg_multicast(&mck_family, skb, 0, 0, GFP_KERNEL);
}

int mck_netlink_init(void)
{
	return genl_register_family(&mck_family);
}

void mck_netlink_exit(void)
{
	genl_unregister_family(&mck_family);
}
