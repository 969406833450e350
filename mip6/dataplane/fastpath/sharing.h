/* Which of its tunnels a shared flow goes over, as mip6/sharing.py and mip6/memory.py say. */
#pragma once

#include "classify.h"

#define FLOW_IDLE 60000000000 /* nanoseconds */

static __always_inline __u64 mix(__u64 number)
{
	number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9;
	number = (number ^ number >> 27) * 0x94d049bb133111eb;
	return number ^ number >> 31;
}

/* -log2(drawn / 2^32) times 2^16, of a number above 0. Without branches, of which the verifier would follow each. */
__attribute__((noinline)) int cost_of(__u32 drawn)
{
	__u64 rest = drawn, above, found = 0;

	for (int step = 16; step; step >>= 1) { /* until the highest bit is that of 2^31 */
		above = (rest - (1ULL << (32 - step))) >> 63; /* 1: none of the upper bits is set */
		asm volatile("" : "+r"(above));
		rest <<= above * step;
		found += above * step;
	}
	found = (31 - found) << 16;
	for (int bit = 15; bit >= 0; bit--) {
		rest = rest * rest >> 31;
		above = rest >> 32;
		asm volatile("" : "+r"(above));
		rest >>= above;
		found |= above << bit;
	}
	return (32 << 16) - found;
}

/* The upper half first; an IPv4 address as ::ffff:a.b.c.d. */
static __always_inline void as_words(__u64 words[2], const struct address *address, __u8 family)
{
	as_number(words, address, family);
	if (family == 4)
		words[1] |= 0xffff00000000;
}

static __always_inline void shared_flow_of(struct shared_flow *flow, const struct decision *packet, bool uplink)
{
	__u32 upper = packet->absent & SPI ? 0 : packet->spi;

	if (!(packet->absent & PORTS)) {
		upper = (__u32)packet->source_port << 16 | packet->destination_port;
		if (uplink)
			upper = (__u32)packet->destination_port << 16 | packet->source_port;
	}
	as_words(uplink ? flow->destination : flow->source, &packet->source, packet->family);
	as_words(uplink ? flow->source : flow->destination, &packet->destination, packet->family);
	flow->upper = (__u64)packet->protocol << 32 | upper;
}

/* The slot of the tunnel that takes a new flow, -1 if none does. `weighed`: by weight, else all alike. */
static __always_inline int choose(const struct decision *decision, const struct shared_flow *flow, struct state *state,
				  __u32 first, bool weighed)
{
	__u64 hash = mix(mix(mix(flow->source[0]) ^ flow->source[1]) ^ flow->destination[0]);
	__u64 best_cost = 1, best_weight = 0;
	__u32 best_bid = 0;
	int best = -1;

	hash = mix(mix(hash ^ flow->destination[1]) ^ flow->upper);
	for (__u32 slot = 0; slot < MAX_TUNNELS; slot++) {
		__u64 weight = weighed ? decision->weights.of[slot] : 1, cost, here, there;
		__u32 index = first + slot;
		struct tunnel *tunnel;

		if (!(decision->tunnels >> slot & 1) || !weight)
			continue;
		tunnel = bpf_map_lookup_elem(&tunnels, &index);
		if (!tunnel || expired(state, tunnel->expires))
			continue;
		cost = cost_of(mix(hash ^ tunnel->bid) >> 32 | 1);
		here = cost * best_weight;
		there = best_cost * weight;
		if (here < there || (here == there && tunnel->bid < best_bid)) {
			best = slot;
			best_bid = tunnel->bid;
			best_cost = cost;
			best_weight = weight;
		}
	}
	return best;
}

/* The slot of the tunnel with this BID, if flows of the rule may go over it; -1 if not. */
static __always_inline int slot_of(const struct decision *decision, struct state *state, __u32 first, __u32 bid)
{
	for (__u32 slot = 0; slot < MAX_TUNNELS; slot++) {
		__u32 index = first + slot;
		struct tunnel *tunnel;

		if (!(decision->tunnels >> slot & 1))
			continue;
		tunnel = bpf_map_lookup_elem(&tunnels, &index);
		if (tunnel && tunnel->bid == bid)
			return expired(state, tunnel->expires) ? -1 : slot;
	}
	return -1;
}

/* Note in `decision` the slot that the flow takes in this tick; `first` is the index of the node's first tunnel. False:
 * there is none. A tunnel whose lifetime is over counts as not usable. */
__attribute__((noinline)) int take_tunnel(struct decision *decision, struct state *state, __u32 first, __u32 uplink)
{
	struct shared_flow flow;
	struct choice *known, chosen = {};
	struct tunnel *tunnel;
	int slot = -1;
	__u32 index;

	if (!decision || !state)
		return 0;
	expired(state, 0); /* sets the clock */
	shared_flow_of(&flow, decision, uplink);
	known = bpf_map_lookup_elem(&flows, &flow);
	if (known && (__s64)(state->now - known->seen) <= FLOW_IDLE)
		slot = slot_of(decision, state, first, known->bid);
	if (slot >= 0) {
		known->seen = state->now;
	} else {
		slot = choose(decision, &flow, state, first, true);
		if (slot < 0) /* those that are left have no weight */
			slot = choose(decision, &flow, state, first, false);
		index = first + slot;
		tunnel = slot < 0 ? NULL : bpf_map_lookup_elem(&tunnels, &index);
		if (!tunnel)
			return 0;
		chosen.seen = state->now;
		chosen.bid = tunnel->bid;
		bpf_map_update_elem(&flows, &flow, &chosen, BPF_ANY);
	}
	decision->taken = slot;
	decision->tick = state->tick;
	return 1;
}
