/* Outer packets of an access device, as decapsulate() of mip6/forward.py.
 *
 * A packet in fragments, one with extension headers and one to an address that no tunnel ends at are left to the stack:
 * what it makes of them userspace reads from its sockets.
 */
#pragma once

#include "duplicates.h"
#include "encapsulate.h"

#define CONGESTION_EXPERIENCED 3

/* RFC 6040 section 4.2, figure 4; -1: to be dropped. */
static __always_inline int decapsulated_ecn(__u32 inner, __u32 outer)
{
	if (outer == CONGESTION_EXPERIENCED)
		return inner ? CONGESTION_EXPERIENCED : -1;
	return inner == 2 && outer == 1 ? 1 : inner;
}

static __always_inline void set_ecn(__u8 *header, __u8 family, __u32 ecn)
{
	if (family == 6) {
		header[1] = (header[1] & 0xcf) | ecn << 4;
	} else { /* RFC 1624 section 3 */
		__u8 tos = (header[1] & 0xfc) | ecn;
		__u32 sum = bpf_ntohs(*(__u16 *)(header + 10)) + header[1] + 0xffff - tos;

		*(__u16 *)(header + 10) = bpf_htons(sum % 0xffff);
		header[1] = tos;
	}
}

/* Why there is no tunnel for it: the reasons in the order of the reference. */
static __always_inline int reject(const struct ends *ends, bool uplink, bool foreign, bool well_formed,
				  const struct packet *packet)
{
	if (!bpf_map_lookup_elem(&pairs, ends))
		return bpf_map_lookup_elem(&locals, &ends->local) ? drop(UNKNOWN_OUTER_SOURCE) : TC_ACT_UNSPEC;
	if (foreign)
		return drop(INNER_PROTOCOL);
	if (!well_formed)
		return drop(MALFORMED);
	if (!forwardable(&packet->source, packet->family) || !forwardable(&packet->destination, packet->family))
		return drop(NOT_FORWARDABLE);
	return drop(uplink ? DESTINATION_NOT_OWNED : SOURCE_NOT_OWNED);
}

/* The tunnel of a node that has these ends. */
static __always_inline struct tunnel *tunnel_between(const struct owner *owner, const struct ends *ends)
{
	for (__u32 slot = 0; slot < MAX_TUNNELS; slot++) {
		__u32 index = owner->tunnels + slot;
		struct tunnel *tunnel;

		if (slot >= owner->count)
			break;
		tunnel = bpf_map_lookup_elem(&tunnels, &index);
		if (tunnel && same(&tunnel->remote, &ends->remote) && same(&tunnel->local, &ends->local) &&
		    !(tunnel->flags & TUNNEL_OTHER))
			return tunnel;
	}
	return NULL;
}

enum { ALONE, COPIED, UNCLEAR };

/* Whether the far end may n-cast a packet, so that duplicates of it are to be found. */
static __always_inline int is_copied(struct __sk_buff *skb, __u32 at, const struct settings *set,
				     const struct owner *owner, struct packet *packet)
{
	struct decision *decision;

	if (!set->eliminate || !owner->copied)
		return ALONE;
	if (!parse_upper(skb, at, packet))
		return UNCLEAR;
	if (packet->protocol == MOBILITY)
		return ALONE;
	decision = decide(owner, MAX_CHUNKS, owner->copied, packet, !set->uplink);
	if (!decision)
		return UNCLEAR;
	return decision->action == NO_RULE ? ALONE : COPIED;
}

static __always_inline int decapsulate(struct __sk_buff *skb, const __u32 l2)
{
	const __u32 inside = l2 + IPV6_HEADER;
	__u32 zero = 0, index, room, segments = skb->gso_segs;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	bool foreign, well_formed;
	struct packet packet = {};
	struct tunnel *tunnel;
	struct owner *owner;
	struct count *count;
	struct ends ends;
	__u8 *header, expected, mark, version;
	struct content content;
	int ecn, copied;

	if (!set || !state || skb->protocol != bpf_htons(ETH_P_IPV6) || skb->pkt_type || skb->vlan_present)
		return TC_ACT_UNSPEC;
	header = octets(skb, l2, IPV6_HEADER);
	if (!header || *header >> 4 != 6)
		return TC_ACT_UNSPEC;
	if (header[6] == IPPROTO_IPV6)
		expected = 6;
	else if (header[6] == IPPROTO_IPIP)
		expected = 4;
	else
		return TC_ACT_UNSPEC;
	room = bpf_ntohs(*(__u16 *)(header + 4));
	if (inside + room > skb->len || (!room && skb->len > inside)) /* cut short; a jumbogram */
		return TC_ACT_UNSPEC;
	mark = header[1] >> 4 & 3;
	__builtin_memcpy(&ends.remote, header + 8, 16);
	__builtin_memcpy(&ends.local, header + 24, 16);

	header = octets(skb, inside, 1);
	version = header ? *header >> 4 : 0;
	foreign = room && version != expected;
	well_formed = !foreign && parse(skb, inside, room, &packet);
	owner = NULL;
	if (well_formed && forwardable(&packet.source, packet.family) &&
	    forwardable(&packet.destination, packet.family))
		owner = owner_of(set->uplink ? &packet.destination : &packet.source, packet.family);
	if (!owner)
		return reject(&ends, set->uplink, foreign, well_formed, &packet);
	tunnel = tunnel_between(owner, &ends);
	if (!tunnel)
		return reject(&ends, set->uplink, foreign, well_formed, &packet);
	if (expired(state, tunnel->expires))
		return TC_ACT_UNSPEC;
	ecn = decapsulated_ecn(packet.traffic_class & 3, mark);
	if (ecn < 0)
		return drop(ECN);
	index = tunnel->counter;
	count = bpf_map_lookup_elem(&counts, &index);
	copied = is_copied(skb, inside, set, owner, &packet);
	if (copied == UNCLEAR || !count)
		return TC_ACT_UNSPEC;
	if (copied == COPIED) {
		if (!hash_content(skb, inside, packet.length, &content))
			return TC_ACT_UNSPEC;
		if (is_duplicate(&content, tunnel->bid, state->now)) {
			count->packets_duplicate += segments ? segments : 1;
			return drop(DUPLICATE);
		}
	}

	if (packet.length < room && !skb->gso_size && bpf_skb_change_tail(skb, inside + packet.length, 0))
		return TC_ACT_UNSPEC;
	if (packet.family == 4) { /* takes 20 octets away; the flags that say it in one step are newer than Linux 6.1 */
		if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0))
			return TC_ACT_UNSPEC;
		if (bpf_skb_adjust_room(skb, IPV4_HEADER - IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return drop(SEND_FAILED);
	} else if (bpf_skb_adjust_room(skb, -IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) {
		return TC_ACT_UNSPEC;
	}
	if (l2 && packet.family == 4) {
		struct ethhdr *ethernet = octets(skb, 0, ETH_HLEN);

		if (ethernet)
			ethernet->h_proto = bpf_htons(ETH_P_IP);
	}
	if (ecn != (packet.traffic_class & 3)) {
		header = octets(skb, l2, IPV4_HEADER);
		if (header)
			set_ecn(header, packet.family, ecn);
	}
	count->packets_in += segments ? segments : 1;
	count->bytes_in += packet.length;
	if (copied == COPIED)
		count->packets_first += segments ? segments : 1;
	return set->deliver ? bpf_redirect(set->deliver, BPF_F_INGRESS) : TC_ACT_OK;
}
