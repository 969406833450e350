/* One packet over one tunnel: the headers in front of it, as mip6/outer.py has them, and the way to the far end. */
#pragma once

#include "checksum.h"

#define OUTER_HOP_LIMIT 64
#define DONT_FRAGMENT 0x4000
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

struct outer4 {
	__u8 version, tos;
	__be16 length, identification, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
} __attribute__((packed));

struct udp {
	__be16 source, destination, length, checksum;
} __attribute__((packed));

static __always_inline bool over_ipv4(const struct tunnel *tunnel)
{
	return tunnel->ends.family == 4;
}

static __always_inline bool in_udp(const struct tunnel *tunnel)
{
	return tunnel->ends.local_port;
}

/* Octets of the outer headers. */
static __always_inline __u32 overhead(const struct tunnel *tunnel)
{
	return (over_ipv4(tunnel) ? IPV4_HEADER : IPV6_HEADER) + (in_udp(tunnel) ? UDP_HEADER : 0);
}

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
		.family = over_ipv4(tunnel) ? IN4 : IN6,
		.tot_len = skb->gso_size || tunnel->device ? 0 : length,
		.ifindex = tunnel->device ? tunnel->device : skb->ifindex,
	};
	long result;

	__builtin_memcpy(fib.ipv6_src, &tunnel->ends.local, 16); /* an IPv4 address is in the first word there too */
	__builtin_memcpy(fib.ipv6_dst, &tunnel->ends.remote, 16);
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), tunnel->device ? BPF_FIB_LOOKUP_OUTPUT : 0);
	hop->serial = 0;
	/* Linux leaves rules `from` an address out where the device is given: the route may be that by the tunnel device */
	if (result == BPF_FIB_LKUP_RET_SUCCESS && (!tunnel->device || fib.ifindex == tunnel->device)) {
		hop->serial = tunnel->serial;
		hop->lap = current_lap();
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

/* Room for the outer headers. A packet that has come out of a tunnel on this machine may still be marked as one that is
 * in a tunnel (that stays, also over virtual links), and the kernel marks none twice; nor need it if nothing is to be cut
 * into segments. */
static __always_inline long make_room(struct __sk_buff *skb, const struct tunnel *tunnel, __u8 family)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	__u32 size = overhead(tunnel);
	long result;

	flags |= over_ipv4(tunnel) ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	if (in_udp(tunnel))
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	result = bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags);
	if (result && !skb->gso_size && family == tunnel->ends.family)
		result = bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return result;
}

/* Whether the UDP header has a checksum. */
static __always_inline bool has_checksum(const struct settings *set, const struct tunnel *tunnel)
{
	return in_udp(tunnel) && !over_ipv4(tunnel) && !set->zero_checksum;
}

static __always_inline void *write_udp(struct udp *udp, const struct cargo *cargo, const struct tunnel *tunnel)
{
	udp->source = tunnel->ends.local_port;
	udp->destination = tunnel->ends.remote_port;
	udp->length = bpf_htons(UDP_HEADER + cargo->length);
	udp->checksum = 0;
	return udp + 1;
}

/* The outer headers, at `front`; the inner packet, NULL where there is no room. DSCP and ECN are copied (RFC 2473 section
 * 6.4, RFC 6040 section 4.1). */
static __always_inline void *write_headers(struct __sk_buff *skb, __u32 front, const struct cargo *cargo,
					   const struct tunnel *tunnel)
{
	const __u8 inside = cargo->family == 6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	const bool udp = in_udp(tunnel);
	void *start = (void *)(long)skb->data + front, *end = (void *)(long)skb->data_end;

	if (over_ipv4(tunnel)) {
		struct outer4 *outer = start;

		if ((void *)(outer + 1) + IPV4_HEADER > end)
			return NULL;
		outer->version = 0x45;
		outer->tos = cargo->traffic_class;
		outer->length = bpf_htons(overhead(tunnel) + cargo->length);
		outer->identification = 0; /* RFC 6864 section 4.1: what is never fragmented needs none */
		outer->fragment = bpf_htons(DONT_FRAGMENT);
		outer->ttl = OUTER_HOP_LIMIT;
		outer->protocol = udp ? IPPROTO_UDP : inside;
		outer->checksum = 0;
		outer->source = tunnel->ends.local.words[0];
		outer->destination = tunnel->ends.remote.words[0];
		outer->checksum = 0xffff ^ header_sum(start);
		start = outer + 1;
	} else {
		struct outer6 *outer = start;

		if ((void *)(outer + 1) + IPV4_HEADER > end)
			return NULL;
		outer->word = bpf_htonl(6 << 28 | cargo->traffic_class << 20);
		outer->length = bpf_htons(overhead(tunnel) - IPV6_HEADER + cargo->length);
		outer->next_header = udp ? IPPROTO_UDP : inside;
		outer->hop_limit = OUTER_HOP_LIMIT;
		outer->source = tunnel->ends.local;
		outer->destination = tunnel->ends.remote;
		start = outer + 1;
	}
	return udp ? write_udp(start, cargo, tunnel) : start;
}

/* The checksum of the UDP header at `at`, which is 0 there. */
static __always_inline bool write_checksum(struct __sk_buff *skb, __u32 at)
{
	int sum = udp_sum(skb, at, 2 * sizeof(struct address));
	struct udp *udp;

	if (sum < 0)
		return false;
	udp = octets(skb, at, UDP_HEADER);
	if (!udp)
		return false;
	udp->checksum = sum == 0xffff ? sum : 0xffff ^ sum; /* none is 0: RFC 8200 section 8.1 */
	return true;
}

/* Wrap and send. TC_ACT_UNSPEC: it could not be, and the packet is as it was.
 *
 * Once in a lap the kernel's own output path is taken, which knows all about neighbours; what it finds holds for the
 * other packets of that lap. */
static __always_inline int send(struct __sk_buff *skb, const __u32 l2, const struct settings *set,
				const struct cargo *cargo, const struct tunnel *tunnel)
{
	__u32 front = l2, number = tunnel->serial & (HOPS - 1), segments = skb->gso_segs;
	bool raw = tunnel->flags & TUNNEL_RAW, known = false;
	struct hop *hop = bpf_map_lookup_elem(&hops, &number);
	struct count *count;
	struct ethhdr *ethernet;
	__u8 *inner;

	if (!hop || overhead(tunnel) + cargo->length > 0xffff)
		return TC_ACT_UNSPEC;
	if (!raw) {
		known = hop->serial == tunnel->serial && hop->lap == current_lap();
		if (!known && !route(skb, tunnel, overhead(tunnel) + cargo->length, hop))
			return TC_ACT_UNSPEC;
	}
	if (!skb->gso_size && skb->len > l2 + cargo->length &&
	    bpf_skb_change_tail(skb, l2 + cargo->length, 0)) /* what pads a short frame */
		return TC_ACT_UNSPEC;
	if (make_room(skb, tunnel, cargo->family))
		return TC_ACT_UNSPEC;
	if (!l2 && !raw) {
		if (bpf_skb_change_head(skb, ETH_HLEN, 0))
			return drop(SEND_FAILED);
		front = ETH_HLEN;
	}
	inner = write_headers(skb, front, cargo, tunnel);
	if (!inner)
		return drop(SEND_FAILED);
	if (cargo->forwarded)
		decrement_hop_limit(inner, cargo->family);
	if (has_checksum(set, tunnel) && !write_checksum(skb, front + IPV6_HEADER))
		return drop(SEND_FAILED);
	number = tunnel->counter;
	count = bpf_map_lookup_elem(&counts, &number);
	if (count) {
		count->packets_out += segments ? segments : 1;
		count->bytes_out += cargo->length;
	}
	if (raw)
		return bpf_redirect(tunnel->device, 0);
	if (front) {
		ethernet = octets(skb, 0, ETH_HLEN);
		if (!ethernet)
			return drop(SEND_FAILED);
		ethernet->h_proto = over_ipv4(tunnel) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
		if (known) {
			__builtin_memcpy(ethernet->h_dest, hop->destination, ETH_ALEN);
			__builtin_memcpy(ethernet->h_source, hop->source, ETH_ALEN);
			return bpf_redirect(hop->device, 0);
		}
	}
	return bpf_redirect_neigh(hop->device, NULL, 0, 0);
}
