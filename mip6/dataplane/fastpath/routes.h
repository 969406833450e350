/* Where the routes of this machine lead an inner packet, asked once in a lap for packets that are alike in all that the
 * look-up is told. */
#pragma once

#include "send.h"

/* Ask the kernel. What it answers not or not simply is left to the stack (`next` without family). */
static __always_inline void look_up(struct __sk_buff *skb, const struct packet *packet, struct routed *way)
{
	/* a length, so that it answers with the MTU of the route: none is shorter */
	struct bpf_fib_lookup fib = {.l4_protocol = packet->protocol, .tot_len = 1, .ifindex = way->from};
	long found;

	if (packet->family == 6) {
		fib.family = IN6;
		fib.flowinfo = bpf_htonl(packet->traffic_class << 20);
		__builtin_memcpy(fib.ipv6_src, &packet->source, 16);
		__builtin_memcpy(fib.ipv6_dst, &packet->destination, 16);
	} else {
		fib.family = IN4;
		fib.tos = packet->traffic_class;
		fib.ipv4_src = packet->source.words[0];
		fib.ipv4_dst = packet->destination.words[0];
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	way->device = found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ? fib.ifindex : 0;
	way->next.nh_family = 0;
	if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return;
	way->mtu = fib.mtu_result;
	way->next.nh_family = fib.family; /* a gateway's may be another one than the packet's */
	__builtin_memcpy(way->next.ipv6_nh, fib.ipv6_dst, 16); /* an IPv4 address is in the first word of both */
	__builtin_memcpy(way->hardware, fib.dmac, ETH_ALEN);
	__builtin_memcpy(way->hardware + ETH_ALEN, fib.smac, ETH_ALEN);
}

/* The number in `ways` of a packet that came by the device `from`. Not static, as search(). */
__attribute__((noinline)) int find_way(struct __sk_buff *skb, const struct packet *packet, __u32 from)
{
	const struct address *source, *destination;
	__u64 lap = current_lap();
	struct routed *way;
	__u32 number;

	if (!packet)
		return 0;
	source = &packet->source;
	destination = &packet->destination;
	number = source->words[0] ^ source->words[3] ^ destination->words[0] ^ destination->words[3] ^ packet->protocol;
	number ^= from; /* copies that come by several devices, answers that come by another */
	number = (number ^ number >> 8 ^ number >> 16 ^ number >> 24) & (HOPS - 1);
	way = bpf_map_lookup_elem(&ways, &number);
	if (!way)
		return number;
	if (way->lap == lap && way->from == from && way->family == packet->family &&
	    way->protocol == packet->protocol && way->traffic_class == packet->traffic_class &&
	    same(&way->source, source) && same(&way->destination, destination))
		return number;
	way->lap = lap;
	way->from = from;
	way->family = packet->family;
	way->protocol = packet->protocol;
	way->traffic_class = packet->traffic_class;
	way->source = *source;
	way->destination = *destination;
	way->fresh = true;
	look_up(skb, packet, way);
	return number;
}

/* The same, of `ways`. */
static __always_inline struct routed *way_of(struct __sk_buff *skb, const struct packet *packet, __u32 from)
{
	__u32 number = find_way(skb, packet, from);

	return bpf_map_lookup_elem(&ways, &number);
}
