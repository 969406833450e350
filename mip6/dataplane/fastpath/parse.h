/* An inner packet taken apart, as mip6/packet.py does. */
#pragma once

#include "layout.h"

#define IPV6_HEADER 40
#define IPV4_HEADER 20
#define MAX_EXTENSIONS 8
#define NEAR 1024
#define SCTP 132
#define DCCP 33
#define MOBILITY 135

struct packet {
	struct address source, destination;
	__u32 length; /* header included */
	__u32 flow_label;
	__u32 spi;
	__u32 upper; /* where the upper-layer header starts; set by parse_upper(), as all below */
	__u16 source_port, destination_port;
	__u8 absent; /* PORTS, SPI: what it does not have */
	__u8 fragment;
	__u8 protocol; /* before parse_upper(): what the IP header says */
	__u8 family, traffic_class, hop_limit;
	__u8 plain; /* an IPv4 header without options, an IPv6 header without hop-by-hop options */
};

/* `size` octets of the packet at `offset`, linear; NULL when it is shorter. Earlier pointers are void then. */
static __always_inline void *octets(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *start = (void *)(long)skb->data + offset;

	asm volatile("" : "+r"(start)); /* the pointer that is compared is to be the one that is used */
	if (start + size > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, offset + size))
			return NULL;
		start = (void *)(long)skb->data + offset;
		asm volatile("" : "+r"(start));
		if (start + size > (void *)(long)skb->data_end)
			return NULL;
	}
	return start;
}

/* The IP header at `at`, of a packet that has `room` octets from there on. False: malformed. */
static __always_inline bool parse(struct __sk_buff *skb, __u32 at, __u32 room, struct packet *packet)
{
	__u8 *header = octets(skb, at, IPV4_HEADER);

	if (!header || room < IPV4_HEADER)
		return false;
	packet->family = *header >> 4;
	if (packet->family == 6) {
		header = octets(skb, at, IPV6_HEADER);
		if (!header || room < IPV6_HEADER)
			return false;
		packet->flow_label = bpf_ntohl(*(__u32 *)header);
		packet->traffic_class = packet->flow_label >> 20;
		packet->flow_label &= 0xfffff;
		packet->length = IPV6_HEADER + bpf_ntohs(*(__u16 *)(header + 4));
		packet->protocol = header[6];
		packet->hop_limit = header[7];
		__builtin_memcpy(&packet->source, header + 8, 16);
		__builtin_memcpy(&packet->destination, header + 24, 16);
		packet->fragment = false;
		packet->plain = packet->protocol != IPPROTO_HOPOPTS;
		packet->upper = IPV6_HEADER;
	} else if (packet->family == 4) {
		__u16 field = *(__u16 *)(header + 6) & bpf_htons(0x3fff);

		packet->upper = (*header & 15) * 4;
		packet->flow_label = 0;
		packet->traffic_class = header[1];
		packet->length = bpf_ntohs(*(__u16 *)(header + 2));
		packet->protocol = header[9];
		packet->hop_limit = header[8];
		packet->source = (struct address){{*(__u32 *)(header + 12)}};
		packet->destination = (struct address){{*(__u32 *)(header + 16)}};
		packet->fragment = field != 0;
		packet->plain = packet->upper == IPV4_HEADER;
		if (packet->upper < IPV4_HEADER || packet->upper > packet->length)
			return false;
	} else {
		return false;
	}
	return packet->length <= room;
}

/* `size` octets of the packet at `at` that must lie near its start, NULL where they do not. */
static __always_inline void *near(struct __sk_buff *skb, __u32 at, __u32 size)
{
	asm volatile("" : "+r"(at)); /* so that what is compared is what is added */
	return at > NEAR ? NULL : octets(skb, at, size);
}

/* What stands behind the IP header at `at`. False when it cannot be told here. */
static __always_inline bool parse_upper(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
	__u8 *head;

	packet->absent = PORTS | SPI;
	packet->source_port = packet->destination_port = 0;
	packet->spi = 0;
	if (packet->fragment)
		return false; /* userspace remembers the first fragments */
	if (packet->family == 6) {
		for (int i = 0; i < MAX_EXTENSIONS; i++) {
			__u32 size;

			switch (packet->protocol) {
			case IPPROTO_HOPOPTS:
			case IPPROTO_ROUTING:
			case IPPROTO_DSTOPTS:
			case IPPROTO_AH:
				break;
			case IPPROTO_FRAGMENT:
				return packet->upper + 8 > packet->length;
			default:
				goto upper;
			}
			if (packet->upper + 8 > packet->length)
				goto upper;
			head = near(skb, at + packet->upper, 8);
			if (!head)
				return false;
			size = 8 * (head[1] + 1);
			if (packet->protocol == IPPROTO_AH) {
				size = 4 * (head[1] + 2); /* RFC 4302 section 2.2 */
				if (packet->absent & SPI) {
					packet->spi = bpf_ntohl(*(__u32 *)(head + 4));
					packet->absent &= ~SPI;
				}
			}
			if (packet->upper + size > packet->length)
				goto upper;
			packet->protocol = head[0];
			packet->upper += size;
		}
		return false;
	}
upper:
	if (packet->upper + 4 > packet->length)
		return true;
	switch (packet->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case SCTP:
	case DCCP:
		head = near(skb, at + packet->upper, 4);
		if (!head)
			return false;
		packet->source_port = bpf_ntohs(*(__u16 *)head);
		packet->destination_port = bpf_ntohs(*(__u16 *)(head + 2));
		packet->absent &= ~PORTS;
		break;
	case IPPROTO_ESP:
		head = near(skb, at + packet->upper, 4);
		if (!head)
			return false;
		if (packet->absent & SPI)
			packet->spi = bpf_ntohl(*(__u32 *)head);
		packet->absent &= ~SPI;
		break;
	case IPPROTO_AH: /* of IPv4; one of IPv6 that is cut short has none */
		if (packet->family == 6 || packet->upper + 8 > packet->length)
			break;
		head = near(skb, at + packet->upper, 8);
		if (!head)
			return false;
		packet->spi = bpf_ntohl(*(__u32 *)(head + 4));
		packet->absent &= ~SPI;
		break;
	}
	return true;
}

/* Neither link-local, multicast, loopback nor unspecified. */
static __always_inline bool forwardable(const struct address *address, __u8 family)
{
	__u32 first = bpf_ntohl(address->words[0]);

	if (family == 4)
		return first && first != 0xffffffff && first >> 24 != 127 && first >> 28 != 0xe && first >> 16 != 0xa9fe;
	if (first >> 22 == 0xfe80 >> 6 || first >> 24 == 0xff)
		return false;
	return address->words[0] | address->words[1] | address->words[2] | (address->words[3] & ~bpf_htonl(1));
}
