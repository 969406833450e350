/* UDP checksums of tunnel packets. What we send over IPv4 has none (RFC 5555 section 4.1); over IPv6 it has a real one,
 * unless the table says zero (RFC 6935).
 *
 * A kernel leaves the checksum of an inner packet to the device, and segments to be cut as well: both are done when this
 * program has already written the outer checksum. It is right all the same: the inner checksum will be one that makes
 * the inner upper-layer packet and its pseudo header sum up to nothing, so what stands in front of it says all (Linux's
 * Documentation/networking/checksum-offloads.rst calls it LCO). Segments of one size so have one checksum.
 */
#pragma once

#include "parse.h"

#define UDP_HEADER 8
#define STRETCH 512 /* octets that bpf_csum_diff() takes at once */

struct stretch {
	__u8 octets[STRETCH + 4]; /* the verifier rounds a size up */
};

/* A part of a packet, of one CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stretch);
} stretches SEC(".maps");

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The folded sum of an IPv4 header without options. */
static __always_inline __u32 header_sum(const void *header)
{
	__u32 sum = 0;

	for (int i = 0; i < IPV4_HEADER / 2; i++)
		sum += ((const __u16 *)header)[i];
	return fold(sum);
}

/* `sum` and the one's complement sum of `length` octets at `at`, folded; -1 where they are not. In the order of the
 * packet, as all sums here. */
static __always_inline int sum_of(struct __sk_buff *skb, __u32 at, __u32 length, __u32 sum)
{
	__u32 zero = 0;
	struct stretch *stretch = bpf_map_lookup_elem(&stretches, &zero);
	__u64 rest;

	if (!stretch)
		return -1;
	for (int i = 0; i < 65536 / STRETCH && length >= STRETCH; i++) {
		if (bpf_skb_load_bytes(skb, at, stretch->octets, STRETCH))
			return -1;
		sum = fold(bpf_csum_diff(NULL, 0, (void *)stretch->octets, STRETCH, sum));
		at += STRETCH;
		length -= STRETCH;
	}
	rest = length & (STRETCH - 1);
	if (rest) {
		asm volatile("" : "+r"(rest));
		rest = ((rest - 1) & (STRETCH - 1)) + 1; /* as it is, but kernel 6.1 wants to see that it is not 0 */
		*(__u32 *)(stretch->octets + (rest & ~3)) = 0; /* behind an odd end */
		if (bpf_skb_load_bytes(skb, at, stretch->octets, rest))
			return -1;
		sum = fold(bpf_csum_diff(NULL, 0, (void *)stretch->octets, (rest + 3) & ~3, sum));
	}
	return sum;
}

static __always_inline __u64 sum_of_address(const struct address *address)
{
	return (__u64)address->words[0] + address->words[1] + address->words[2] + address->words[3];
}

/* The size of what goes over the path: of the largest segment, if a device is to make several of it. 0: not known. */
static __always_inline __u32 on_the_path(struct __sk_buff *skb, __u32 at, const struct packet *packet)
{
	__u8 offset;

	if (!skb->gso_size)
		return packet->length;
	if (packet->protocol == IPPROTO_UDP)
		return packet->upper + UDP_HEADER + skb->gso_size;
	if (packet->protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, at + packet->upper + 12, &offset, 1))
		return 0;
	return packet->upper + (offset >> 4) * 4 + skb->gso_size;
}

/* Whether the checksum at `at` is but the sum of the pseudo header: somebody will finish it (mip6/dataplane/offload.py).
 * One packet in 65536 looks so by chance, which does no harm if its checksum is right. */
static __always_inline bool is_unfinished(struct __sk_buff *skb, __u32 at, __u8 protocol, __u32 pseudo)
{
	__u16 checksum;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, at + (protocol == IPPROTO_TCP ? 16 : 6), &checksum, sizeof(checksum)))
		return false;
	return checksum == pseudo;
}

/* The folded sum of all that the checksum of the UDP header at `udp` covers, itself included, with the `addresses` octets
 * in front of it; of each segment, if segments of one size are to be made of it. -1: it cannot be told. Not static: the
 * verifier looks at it once. */
__attribute__((noinline)) int udp_sum(struct __sk_buff *skb, __u32 udp, __u32 addresses)
{
	__u32 inside, length, size, upper;
	struct packet packet;
	__be16 field;
	__u64 sum;

	udp &= NEAR - 1; /* as it is, but the verifier wants to see it */
	asm volatile("" : "+r"(udp));
	inside = udp + UDP_HEADER;
	if (bpf_skb_load_bytes(skb, udp + 4, &field, sizeof(field)))
		return -1;
	length = bpf_ntohs(field);
	if (length < UDP_HEADER)
		return -1;
	sum = field + bpf_htons(IPPROTO_UDP);
	if (parse(skb, inside, length - UDP_HEADER, &packet) && parse_upper(skb, inside, &packet)) {
		__u32 pseudo;

		size = on_the_path(skb, inside, &packet);
		if (size < packet.upper)
			return -1;
		upper = size - packet.upper;
		pseudo = fold(sum_of_address(&packet.source) + sum_of_address(&packet.destination) + bpf_htons(upper) +
			      bpf_htons(packet.protocol));
		if (skb->gso_size || is_unfinished(skb, inside + packet.upper, packet.protocol, pseudo)) {
			__u32 less = 0xffff ^ bpf_htons(packet.length - size); /* in each length that a segment has */

			length = UDP_HEADER + packet.upper;
			sum += (0xffff ^ pseudo) + 2 * less + (packet.family == 6 ? less : 0);
		}
	}
	return sum_of(skb, udp - addresses, addresses + length, fold(sum));
}
