/* The outer headers of a packet that came by an access device.
 *
 * A packet in fragments and one with extension headers or IPv4 options are left to the stack: what it makes of them
 * userspace reads from its sockets.
 */
#pragma once

#include "send.h"

struct arrival {
	struct ends ends;
	__u32 size; /* of the outer headers, the link layer's included */
	__u32 room; /* octets behind them */
	__u8 traffic_class;
	__u8 expected; /* IP version of what is inside; 0: it is in UDP, which does not say */
};

/* Whether the UDP header at `at`, in `room` octets, is one of a tunnel packet as it should be. */
static __always_inline bool read_udp(struct __sk_buff *skb, __u32 at, const struct settings *set,
				     struct arrival *arrival)
{
	struct udp *udp = octets(skb, at, UDP_HEADER);
	bool ipv4 = arrival->ends.family == 4;
	__be16 checksum;

	if (!udp || arrival->room < UDP_HEADER || bpf_ntohs(udp->length) != arrival->room)
		return false;
	arrival->ends.local_port = udp->destination;
	arrival->ends.remote_port = udp->source;
	arrival->size = at + UDP_HEADER;
	arrival->room -= UDP_HEADER;
	checksum = udp->checksum;
	if (!bpf_map_lookup_elem(&pairs, &arrival->ends)) /* signalling from an end that is not known yet; another's */
		return false;
	if (!checksum)
		return ipv4 || set->zero_checksum;
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0) /* made, or looked at, by a device */
		return true;
	return udp_sum(skb, at, ipv4 ? 2 * sizeof(__be32) : 2 * sizeof(struct address)) == 0xffff;
}

static __always_inline __u8 version_in(__u8 protocol)
{
	return protocol == IPPROTO_IPV6 ? 6 : protocol == IPPROTO_IPIP ? 4 : 0;
}

/* Take the outer headers apart. False: it is none of a tunnel, or one to leave to the stack. */
static __always_inline bool read_outer(struct __sk_buff *skb, const __u32 l2, const struct settings *set,
				       struct arrival *arrival)
{
	__u8 protocol;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct outer6 *outer = octets(skb, l2, IPV6_HEADER);

		if (!outer || *(__u8 *)outer >> 4 != 6)
			return false;
		protocol = outer->next_header;
		if (!version_in(protocol) && protocol != IPPROTO_UDP)
			return false;
		arrival->room = bpf_ntohs(outer->length);
		arrival->size = l2 + IPV6_HEADER;
		arrival->traffic_class = bpf_ntohl(outer->word) >> 20;
		arrival->ends.family = 6;
		arrival->ends.local = outer->destination;
		arrival->ends.remote = outer->source;
		if (!arrival->room && skb->len > arrival->size) /* a jumbogram */
			return false;
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct outer4 *outer = octets(skb, l2, IPV4_HEADER);
		__u32 length;

		if (!outer || outer->version != 0x45 || outer->fragment & bpf_htons(0x3fff))
			return false;
		protocol = outer->protocol;
		if (!version_in(protocol) && protocol != IPPROTO_UDP)
			return false;
		length = bpf_ntohs(outer->length);
		if (length < IPV4_HEADER || header_sum(outer) != 0xffff)
			return false;
		arrival->room = length - IPV4_HEADER;
		arrival->size = l2 + IPV4_HEADER;
		arrival->traffic_class = outer->tos;
		arrival->ends.family = 4;
		arrival->ends.local.words[0] = outer->destination;
		arrival->ends.remote.words[0] = outer->source;
	} else {
		return false;
	}
	if (arrival->size + arrival->room > skb->len) /* cut short */
		return false;
	arrival->expected = version_in(protocol);
	return arrival->expected || read_udp(skb, arrival->size, set, arrival);
}

/* The outer headers away, for an inner packet of that IP version: TC_ACT_OK, or what becomes of the packet if not. */
static __always_inline int take_off(struct __sk_buff *skb, const __u32 l2, const struct arrival *arrival, __u8 family)
{
	__s32 size = arrival->size - l2;

	if (family == arrival->ends.family)
		return bpf_skb_adjust_room(skb, -size, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) ? TC_ACT_UNSPEC : TC_ACT_OK;
	/* adds or takes away 20 octets; the flags that say it in one step are newer than Linux 6.1 */
	if (bpf_skb_change_proto(skb, family == 6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP), 0))
		return TC_ACT_UNSPEC;
	size += family == 6 ? IPV6_HEADER - IPV4_HEADER : IPV4_HEADER - IPV6_HEADER;
	if (bpf_skb_adjust_room(skb, -size, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(SEND_FAILED);
	if (l2) {
		struct ethhdr *ethernet = octets(skb, 0, ETH_HLEN);

		if (ethernet)
			ethernet->h_proto = family == 6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	}
	return TC_ACT_OK;
}
