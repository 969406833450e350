/* Outer packets of an access device, as decapsulate() of mip6/forward.py. */
#pragma once

#include "arrival.h"
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

/* Why there is no tunnel for it: the reasons in the order of the reference. What came over IPv4 from an end that is not
 * known may be for another tunnel of this machine at the same address: userspace hears and counts it as well. */
static __always_inline int reject(const struct ends *ends, bool uplink, bool foreign, bool well_formed,
				  const struct packet *packet)
{
	if (!bpf_map_lookup_elem(&pairs, ends))
		return ends->family == 6 && bpf_map_lookup_elem(&locals, &ends->local) ? drop(UNKNOWN_OUTER_SOURCE) :
											 TC_ACT_UNSPEC;
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
		if (tunnel && same(&tunnel->ends.remote, &ends->remote) && same(&tunnel->ends.local, &ends->local) &&
		    tunnel->ends.remote_port == ends->remote_port && tunnel->ends.local_port == ends->local_port &&
		    tunnel->ends.family == ends->family)
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
	decision = decision_of(owner, MAX_CHUNKS, packet, !set->uplink);
	if (!decision)
		return UNCLEAR;
	return decision->action == NO_RULE ? ALONE : COPIED;
}

/* The short cut: what came out of a tunnel goes straight to the neighbour that the routes lead to, if it is one that the
 * stack would just forward. TC_ACT_OK: the stack has it, unchanged.
 *
 * As in send(), the kernel's own output path is taken once in a lap. */
static __always_inline int forward(struct __sk_buff *skb, const __u32 l2, const struct settings *set,
				   const struct packet *packet)
{
	struct ethhdr *ethernet;
	struct routed *way;
	__u32 size;

	if (packet->hop_limit <= 1 || !packet->plain || skb->mark) /* to be answered; options and marks are the stack's */
		return TC_ACT_OK;
	way = way_of(skb, packet, set->deliver ? set->deliver : skb->ifindex);
	if (!way || !way->next.nh_family || way->device == set->tunnel)
		return TC_ACT_OK;
	if (packet->family == 4) {
		__u16 header[IPV4_HEADER / 2];

		if (bpf_skb_load_bytes(skb, l2, header, sizeof(header)) || header_sum(header) != 0xffff)
			return TC_ACT_OK; /* to be dropped (RFC 1812 section 5.2.2) */
	}
	size = on_the_path(skb, l2, packet);
	if (!size || size > way->mtu)
		return TC_ACT_OK;
	if (!l2 && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_ACT_OK;
	ethernet = octets(skb, 0, ETH_HLEN + IPV4_HEADER);
	if (!ethernet)
		return drop(SEND_FAILED);
	decrement_hop_limit((__u8 *)(ethernet + 1), packet->family);
	if (packet->family == 6) /* in the sum of all octets, if a device has made one; IPv4's header sums up to nothing */
		bpf_csum_update(skb, bpf_htons(0xfffe));
	__builtin_memcpy(ethernet, way->hardware, sizeof(way->hardware));
	ethernet->h_proto = packet->family == 6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (!way->fresh)
		return bpf_redirect(way->device, 0);
	way->fresh = false;
	return bpf_redirect_neigh(way->device, &way->next, sizeof(way->next), 0);
}

static __always_inline int decapsulate(struct __sk_buff *skb, const __u32 l2)
{
	__u32 zero = 0, index, inside, segments = skb->gso_segs;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct state *state = bpf_map_lookup_elem(&states, &zero);
	struct arrival arrival = {};
	bool foreign, well_formed;
	struct packet packet = {};
	struct tunnel *tunnel;
	struct owner *owner;
	struct count *count;
	__u8 *header, version;
	struct content content;
	int ecn, copied, result;

	if (!set || !state || skb->pkt_type || skb->vlan_present || !read_outer(skb, l2, set, &arrival))
		return TC_ACT_UNSPEC;
	inside = arrival.size & 63; /* as it is, but the verifier wants to see it */
	asm volatile("" : "+r"(inside));
	header = octets(skb, inside, 1);
	version = header ? *header >> 4 : 0;
	foreign = arrival.room && (arrival.expected ? version != arrival.expected : version != 6 && version != 4);
	well_formed = !foreign && parse(skb, inside, arrival.room, &packet);
	/* inside UDP it may be for the agent itself, which its socket knows */
	if (well_formed && !arrival.expected && packet.family == 6 && packet.protocol == MOBILITY)
		return TC_ACT_UNSPEC;
	owner = NULL;
	if (well_formed && forwardable(&packet.source, packet.family) &&
	    forwardable(&packet.destination, packet.family))
		owner = owner_of(set->uplink ? &packet.destination : &packet.source, packet.family);
	if (!owner)
		return reject(&arrival.ends, set->uplink, foreign, well_formed, &packet);
	tunnel = tunnel_between(owner, &arrival.ends);
	if (!tunnel)
		return reject(&arrival.ends, set->uplink, foreign, well_formed, &packet);
	if (expired(state, tunnel->expires))
		return TC_ACT_UNSPEC;
	ecn = decapsulated_ecn(packet.traffic_class & 3, arrival.traffic_class & 3);
	if (ecn < 0)
		return drop(ECN);
	/* the kernel would take such a packet for one that is still in the tunnel, and cut the wrong one into datagrams */
	if (skb->gso_size && !arrival.expected && packet.protocol != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
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

	if (packet.length < arrival.room && !skb->gso_size && bpf_skb_change_tail(skb, inside + packet.length, 0))
		return TC_ACT_UNSPEC;
	result = take_off(skb, l2, &arrival, packet.family);
	if (result != TC_ACT_OK)
		return result;
	if (ecn != (packet.traffic_class & 3)) {
		header = octets(skb, l2, IPV4_HEADER);
		if (header)
			set_ecn(header, packet.family, ecn);
	}
	count->packets_in += segments ? segments : 1;
	count->bytes_in += packet.length;
	if (copied == COPIED)
		count->packets_first += segments ? segments : 1;
	if (set->forward) {
		result = forward(skb, l2, set, &packet);
		if (result != TC_ACT_OK)
			return result;
	}
	return set->deliver ? bpf_redirect(set->deliver, BPF_F_INGRESS) : TC_ACT_OK;
}
