/* Inner packets into tunnels, as encapsulate() of mip6/forward.py.
 *
 * On the tunnel device (`l2` 0) the routes have decided that a packet is for a tunnel: what cannot be sent is dropped
 * here, unless userspace has to answer it or knows how to send it. The short cut (`shortcut`) stands before the routes:
 * it takes what certainly ends in a tunnel and makes the decrement of the hop limit that routing would have made.
 */
#pragma once

#include "routes.h"
#include "sharing.h"

/* Why a packet does not go into any tunnel. */
static __always_inline int refuse(const bool shortcut, enum reason reason)
{
	return shortcut ? TC_ACT_UNSPEC : drop(reason);
}

/* A copy that send_copies() made. */
static __always_inline int send_copy(struct __sk_buff *skb, const struct settings *set, struct state *state)
{
	struct cargo cargo = {state->length, state->family, state->traffic_class, state->forwarded};
	__u32 index = state->tunnel;
	struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &index);
	int result = TC_ACT_UNSPEC;

	state->waiting = false;
	if (tunnel)
		result = send(skb, 0, set, &cargo, tunnel);
	return result == TC_ACT_UNSPEC ? drop(SEND_FAILED) : result;
}

/* Whether a packet may go through a tunnel: TC_ACT_OK, or what becomes of it otherwise. */
static __always_inline int admit(struct __sk_buff *skb, const struct settings *set, const struct packet *packet,
				 __u32 size, const struct tunnel *tunnel, bool shortcut)
{
	if (tunnel->flags & TUNNEL_AWAY)
		return TC_ACT_UNSPEC;
	if (packet->family == tunnel->ends.family && same(&packet->source, &tunnel->ends.local) &&
	    same(&packet->destination, &tunnel->ends.remote))
		return refuse(shortcut, LOOP); /* RFC 2473 section 4.1.2 */
	if (!size || size > tunnel->mtu) /* to be answered, or to be sent in fragments */
		return TC_ACT_UNSPEC;
	/* a last segment that is shorter would have another checksum, which the kernel does not make for us */
	if (skb->gso_size && has_checksum(set, tunnel) && (packet->length - size) % skb->gso_size)
		return TC_ACT_UNSPEC;
	return TC_ACT_OK;
}

/* n-casting: a clone for each tunnel of the mask but the last goes to the program on the tunnel device, which runs at
 * once. TC_ACT_OK: all are sent but the one for `state->last`. What stands in the state the verifier does not follow,
 * which keeps the loops short for it. */
static __always_inline int send_copies(struct __sk_buff *skb, const struct settings *set, const struct cargo *cargo,
				       const struct packet *packet, __u32 size, struct state *state, __u32 first,
				       __u32 mask)
{
	state->left = 0;
	for (__u32 slot = 0; slot < MAX_TUNNELS; slot++) {
		__u32 index = first + slot;
		struct tunnel *tunnel;
		int result;

		if (!(mask >> slot & 1))
			continue;
		tunnel = bpf_map_lookup_elem(&tunnels, &index);
		if (!tunnel)
			return TC_ACT_UNSPEC;
		result = admit(skb, set, packet, size, tunnel, cargo->forwarded);
		if (result != TC_ACT_OK)
			return result;
		if (expired(state, tunnel->expires))
			continue;
		state->left |= 1 << slot;
		state->last = slot;
	}
	if (!state->left)
		return TC_ACT_UNSPEC;
	state->length = cargo->length;
	state->family = cargo->family;
	state->traffic_class = cargo->traffic_class;
	state->forwarded = cargo->forwarded;
	mask = state->left & ~(1 << state->last);
	for (__u32 slot = 0; slot < MAX_TUNNELS; slot++) {
		if (!(mask >> slot & 1))
			continue;
		state->tunnel = first + slot;
		state->waiting = true;
		if (bpf_clone_redirect(skb, set->tunnel, 0) || state->waiting)
			drop(SEND_FAILED);
		state->waiting = false;
	}
	return TC_ACT_OK;
}

/* Whether a packet at a served device would be routed into the tunnel device, as far as that is known. */
static __always_inline bool leads_into_tunnel(struct __sk_buff *skb, const struct settings *set,
					      const struct packet *packet)
{
	struct routed *way;

	if (!set->tunnel)
		return true;
	way = way_of(skb, packet, skb->ifindex);
	return way && way->device == set->tunnel;
}

static __always_inline int encapsulate(struct __sk_buff *skb, const __u32 l2, const bool shortcut)
{
	__u32 zero = 0, mask, size, slot;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	struct packet packet = {};
	struct tunnel *tunnel;
	struct cargo cargo;
	struct owner *owner;
	int result;

	if (!set || !state)
		return TC_ACT_UNSPEC;
	if (!shortcut && state->waiting)
		return send_copy(skb, set, state);
	if (shortcut && (skb->pkt_type || skb->vlan_present)) /* not to this machine, or to one on a VLAN of it */
		return TC_ACT_UNSPEC;
	if (!parse(skb, l2, skb->len - l2, &packet))
		return refuse(shortcut, MALFORMED);
	if (!forwardable(&packet.source, packet.family) || !forwardable(&packet.destination, packet.family))
		return refuse(shortcut, NOT_FORWARDABLE);
	owner = owner_of(set->uplink ? &packet.source : &packet.destination, packet.family);
	if (!owner)
		return set->uplink ? refuse(shortcut, SOURCE_NOT_OWNED) : TC_ACT_UNSPEC; /* else to be answered */
	if (owner->userspace)
		return TC_ACT_UNSPEC;
	/* a mobile router is spoken to as well, and has other ways than tunnels; what a node owns is behind a tunnel */
	if (shortcut && set->uplink && !leads_into_tunnel(skb, set, &packet))
		return TC_ACT_UNSPEC;
	if ((owner->chunks || skb->gso_size) && !parse_upper(skb, l2, &packet))
		return TC_ACT_UNSPEC;
	slot = owner->first;
	mask = slot != NO_SLOT;
	if (owner->chunks && packet.protocol != MOBILITY) { /* signalling is exempt from flow rules */
		struct decision *decision = decision_of(owner, 0, &packet, set->uplink);

		if (!decision)
			return TC_ACT_UNSPEC;
		switch (decision->action) {
		case USERSPACE:
			return TC_ACT_UNSPEC;
		case DROP:
			return refuse(shortcut, RULE);
		case SEND:
			mask = decision->tunnels;
			slot = decision->slot;
			break;
		case SHARE:
			if (decision->tick != bpf_jiffies64() &&
			    !take_tunnel(decision, state, owner->tunnels, set->uplink))
				return TC_ACT_UNSPEC;
			slot = decision->taken;
			mask = 1;
		}
	}
	if (!mask)
		return refuse(shortcut, NO_TUNNEL);
	if (packet.hop_limit <= shortcut || (shortcut && !packet.plain)) /* to be answered; options are the stack's */
		return TC_ACT_UNSPEC;
	size = on_the_path(skb, l2, &packet);
	cargo = (struct cargo){packet.length, packet.family, packet.traffic_class, shortcut};
	mask &= mask - 1;
	if (mask) { /* several */
		result = send_copies(skb, set, &cargo, &packet, size, state, owner->tunnels, mask | 1 << (slot & 15));
		if (result != TC_ACT_OK)
			return result;
		slot = state->last;
	}
	slot += owner->tunnels;
	tunnel = bpf_map_lookup_elem(&tunnels, &slot);
	if (!tunnel)
		return TC_ACT_UNSPEC;
	if (!mask) {
		result = admit(skb, set, &packet, size, tunnel, shortcut);
		if (result != TC_ACT_OK)
			return result;
		if (expired(state, tunnel->expires)) /* perhaps userspace knows better */
			return TC_ACT_UNSPEC;
	}
	result = send(skb, l2, set, &cargo, tunnel);
	return result == TC_ACT_UNSPEC && mask ? drop(SEND_FAILED) : result;
}
