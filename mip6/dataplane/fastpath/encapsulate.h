/* Inner packets into tunnels, as encapsulate() of mip6/forward.py.
 *
 * On the tunnel device (`l2` 0) the routes have decided that a packet is for a tunnel: what cannot be sent is dropped
 * here, unless userspace has to answer it or knows how to send it. The short cut (`shortcut`) stands before the routes:
 * it takes what certainly ends in a tunnel and makes the decrement of the hop limit that routing would have made.
 */
#pragma once

#include "sharing.h"

#define OUTER_HOP_LIMIT 64
#define IN4 2 /* AF_INET */
#define IN6 10 /* AF_INET6 */

/* What is to be sent, whichever tunnel by. */
struct cargo {
	__u32 length;
	__u8 family, traffic_class;
	__u8 forwarded; /* the hop limit is yet to be decremented */
};

struct outer6 {
	__be32 word;
	__be16 length;
	__u8 next_header, hop_limit;
	struct address source, destination;
} __attribute__((packed));

/* One router hop less (RFC 8200 section 3, RFC 1812 section 5.3.1). */
static __always_inline void decrement_hop_limit(__u8 *header, __u8 family)
{
	if (family == 6) {
		header[7]--;
	} else {
		__u32 sum = *(__u16 *)(header + 10) + bpf_htons(0x0100);

		*(__u16 *)(header + 10) = sum + (sum >= 0xffff);
		header[8]--;
	}
}

/* The way to the far end, in `hop`. False: there is none that is known here. */
static __always_inline bool route(struct __sk_buff *skb, const struct tunnel *tunnel, __u32 length, struct hop *hop)
{
	struct bpf_fib_lookup fib = {
		.family = IN6,
		.tot_len = skb->gso_size || tunnel->device ? 0 : length,
		.ifindex = tunnel->device ? tunnel->device : skb->ifindex,
	};
	long result;

	__builtin_memcpy(fib.ipv6_src, &tunnel->local, 16);
	__builtin_memcpy(fib.ipv6_dst, &tunnel->remote, 16);
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), tunnel->device ? BPF_FIB_LOOKUP_OUTPUT : 0);
	hop->serial = 0;
	/* Linux leaves rules `from` an address out where the device is given: the route may be that by the tunnel device */
	if (result == BPF_FIB_LKUP_RET_SUCCESS && (!tunnel->device || fib.ifindex == tunnel->device)) {
		hop->serial = tunnel->serial;
		hop->tick = bpf_jiffies64();
		hop->device = fib.ifindex;
		__builtin_memcpy(hop->destination, fib.dmac, ETH_ALEN);
		__builtin_memcpy(hop->source, fib.smac, ETH_ALEN);
		return true;
	}
	hop->device = tunnel->device;
	if (!tunnel->device && result == BPF_FIB_LKUP_RET_NO_NEIGH)
		hop->device = fib.ifindex;
	return hop->device && result != BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

/* Room for the outer header. A packet that has come out of a tunnel on this machine may still be marked as one that is in
 * a tunnel (that stays, also over virtual links), and the kernel marks none twice; nor need it if nothing is to be cut
 * into segments. */
static __always_inline long make_room(struct __sk_buff *skb, __u8 family)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	long result = bpf_skb_adjust_room(skb, IPV6_HEADER, BPF_ADJ_ROOM_MAC, flags);

	if (result && !skb->gso_size && family == 6)
		result = bpf_skb_adjust_room(skb, IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return result;
}

/* Wrap and send. TC_ACT_UNSPEC: it could not be, and the packet is as it was.
 *
 * Once in a tick the kernel's own output path is taken, which knows all about neighbours; what it finds holds for the
 * other packets of that tick. */
static __always_inline int send(struct __sk_buff *skb, const __u32 l2, const struct cargo *cargo,
				const struct tunnel *tunnel)
{
	__u32 front = l2, number = tunnel->serial & (HOPS - 1), segments = skb->gso_segs;
	bool raw = tunnel->flags & TUNNEL_RAW, known = false;
	struct hop *hop = bpf_map_lookup_elem(&hops, &number);
	struct count *count;
	struct ethhdr *ethernet;
	struct outer6 *outer;

	if (!hop)
		return TC_ACT_UNSPEC;
	if (!raw) {
		known = hop->serial == tunnel->serial && hop->tick == bpf_jiffies64();
		if (!known && !route(skb, tunnel, IPV6_HEADER + cargo->length, hop))
			return TC_ACT_UNSPEC;
	}
	if (!skb->gso_size && skb->len > l2 + cargo->length &&
	    bpf_skb_change_tail(skb, l2 + cargo->length, 0)) /* what pads a short frame */
		return TC_ACT_UNSPEC;
	if (make_room(skb, cargo->family))
		return TC_ACT_UNSPEC;
	if (!l2 && !raw) {
		if (bpf_skb_change_head(skb, ETH_HLEN, 0))
			return drop(SEND_FAILED);
		front = ETH_HLEN;
	}
	ethernet = (void *)(long)skb->data;
	outer = (void *)ethernet + front;
	if ((void *)(outer + 1) + IPV4_HEADER > (void *)(long)skb->data_end)
		return drop(SEND_FAILED);
	outer->word = bpf_htonl(6 << 28 | cargo->traffic_class << 20);
	outer->length = bpf_htons(cargo->length);
	outer->next_header = cargo->family == 6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	outer->hop_limit = OUTER_HOP_LIMIT;
	outer->source = tunnel->local;
	outer->destination = tunnel->remote;
	if (cargo->forwarded)
		decrement_hop_limit((void *)(outer + 1), cargo->family);
	number = tunnel->counter;
	count = bpf_map_lookup_elem(&counts, &number);
	if (count) {
		count->packets_out += segments ? segments : 1;
		count->bytes_out += cargo->length;
	}
	if (raw)
		return bpf_redirect(tunnel->device, 0);
	if (front)
		ethernet->h_proto = bpf_htons(ETH_P_IPV6);
	if (!front || !known)
		return bpf_redirect_neigh(hop->device, NULL, 0, 0);
	__builtin_memcpy(ethernet->h_dest, hop->destination, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, hop->source, ETH_ALEN);
	return bpf_redirect(hop->device, 0);
}

/* The size of what goes over the path: of the largest segment, if a device is to make several of it. 0: not known. */
static __always_inline __u32 on_the_path(struct __sk_buff *skb, __u32 l2, const struct packet *packet)
{
	__u8 offset;

	if (!skb->gso_size)
		return packet->length;
	if (packet->protocol == IPPROTO_UDP)
		return packet->upper + 8 + skb->gso_size;
	if (packet->protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, l2 + packet->upper + 12, &offset, 1))
		return 0;
	return packet->upper + (offset >> 4) * 4 + skb->gso_size;
}

/* Why a packet does not go into any tunnel. */
static __always_inline int refuse(const bool shortcut, enum reason reason)
{
	return shortcut ? TC_ACT_UNSPEC : drop(reason);
}

/* A copy that send_copies() made. */
static __always_inline int send_copy(struct __sk_buff *skb, struct state *state)
{
	struct cargo cargo = {state->length, state->family, state->traffic_class, state->forwarded};
	__u32 index = state->tunnel;
	struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &index);
	int result = TC_ACT_UNSPEC;

	state->waiting = false;
	if (tunnel)
		result = send(skb, 0, &cargo, tunnel);
	return result == TC_ACT_UNSPEC ? drop(SEND_FAILED) : result;
}

/* Whether a packet may go through a tunnel: TC_ACT_OK, or what becomes of it otherwise. */
static __always_inline int admit(const struct packet *packet, __u32 size, const struct tunnel *tunnel, bool shortcut)
{
	if (tunnel->flags & TUNNEL_AWAY)
		return TC_ACT_UNSPEC;
	if (packet->family == 6 && same(&packet->source, &tunnel->local) && same(&packet->destination, &tunnel->remote))
		return refuse(shortcut, LOOP); /* RFC 2473 section 4.1.2 */
	if (!size || size > tunnel->mtu) /* to be answered, or to be sent in fragments */
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
		result = admit(packet, size, tunnel, cargo->forwarded);
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

/* Whether a packet that came by `skb->ifindex` would be routed into the tunnel device, as far as that is known. */
static __always_inline bool is_routed_into(struct __sk_buff *skb, __u32 tunnel, const struct packet *packet)
{
	struct bpf_fib_lookup fib = {.family = packet->family == 6 ? IN6 : IN4, .ifindex = skb->ifindex};
	long found;

	fib.l4_protocol = packet->protocol;
	if (packet->family == 6) {
		__builtin_memcpy(fib.ipv6_src, &packet->source, 16);
		__builtin_memcpy(fib.ipv6_dst, &packet->destination, 16);
	} else {
		fib.ipv4_src = packet->source.words[0];
		fib.ipv4_dst = packet->destination.words[0];
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) && fib.ifindex == tunnel;
}

/* The same, looked up once in a tick for packets that are alike in all that the look-up is told. */
static __always_inline bool leads_into_tunnel(struct __sk_buff *skb, const struct settings *set,
					      const struct packet *packet)
{
	const struct address *from = &packet->source, *to = &packet->destination;
	__u32 number = from->words[0] ^ from->words[3] ^ to->words[0] ^ to->words[3] ^ packet->protocol;
	__u64 tick = bpf_jiffies64();
	struct routed *way;

	if (!set->tunnel)
		return true;
	number = (number ^ number >> 8 ^ number >> 16 ^ number >> 24) & (HOPS - 1);
	way = bpf_map_lookup_elem(&ways, &number);
	if (!way)
		return false;
	if (way->tick != tick || way->device != skb->ifindex || way->family != packet->family ||
	    way->protocol != packet->protocol || !same(&way->source, from) || !same(&way->destination, to)) {
		way->tick = tick;
		way->device = skb->ifindex;
		way->family = packet->family;
		way->protocol = packet->protocol;
		way->source = *from;
		way->destination = *to;
		way->into_tunnel = is_routed_into(skb, set->tunnel, packet);
	}
	return way->into_tunnel;
}

static __always_inline int encapsulate(struct __sk_buff *skb, const __u32 l2, const bool shortcut)
{
	__u32 zero = 0, mask, size, slot;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	struct tunnel *tunnel;
	struct packet packet;
	struct cargo cargo;
	struct owner *owner;
	int result;

	if (!set || !state)
		return TC_ACT_UNSPEC;
	if (!shortcut && state->waiting)
		return send_copy(skb, state);
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
		struct decision *decision = decide(owner, 0, owner->chunks, &packet, set->uplink);

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
		result = admit(&packet, size, tunnel, shortcut);
		if (result != TC_ACT_OK)
			return result;
		if (expired(state, tunnel->expires)) /* perhaps userspace knows better */
			return TC_ACT_UNSPEC;
	}
	result = send(skb, l2, &cargo, tunnel);
	return result == TC_ACT_UNSPEC && mask ? drop(SEND_FAILED) : result;
}
