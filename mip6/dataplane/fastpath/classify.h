/* Whose packet it is, and which of the node's rules it meets, as mip6/forward.py and mip6/matching.py say. */
#pragma once

#include "parse.h"

static __always_inline struct owner *owner_of(const struct address *address, __u8 family)
{
	struct owner_key key = {
		.prefix_length = ADDRESS_FAMILY_BITS + (family == 4 ? 32 : 128),
		.family = family,
		.address = *address,
	};

	return bpf_map_lookup_elem(&owners, &key);
}

/* What the conditions are about. Source and destination are those of the selector: of a packet to the mobile node. */
struct flow {
	__u64 source[2], destination[2]; /* as in struct span */
	__u32 spi, flow_label;
	__u16 source_port, destination_port;
	__u8 codepoint, protocol, family, absent;
};

static __always_inline void as_number(__u64 number[2], const struct address *address, __u8 family)
{
	if (family == 4) {
		number[0] = 0;
		number[1] = bpf_ntohl(address->words[0]);
		return;
	}
	number[0] = (__u64)bpf_ntohl(address->words[0]) << 32 | bpf_ntohl(address->words[1]);
	number[1] = (__u64)bpf_ntohl(address->words[2]) << 32 | bpf_ntohl(address->words[3]);
}

static __always_inline void flow_of(struct flow *flow, const struct decision *packet, bool uplink)
{
	flow->spi = packet->spi;
	flow->flow_label = packet->flow_label;
	flow->codepoint = packet->codepoint;
	flow->protocol = packet->protocol;
	flow->family = packet->family;
	flow->absent = packet->absent;
	if (uplink) { /* RFC 6089 section 4.2: the mobile node swaps them */
		as_number(flow->source, &packet->destination, packet->family);
		as_number(flow->destination, &packet->source, packet->family);
		flow->source_port = packet->destination_port;
		flow->destination_port = packet->source_port;
	} else {
		as_number(flow->source, &packet->source, packet->family);
		as_number(flow->destination, &packet->destination, packet->family);
		flow->source_port = packet->source_port;
		flow->destination_port = packet->destination_port;
	}
}

static __always_inline bool within(const struct span *span, const __u64 number[2])
{
	if (number[0] < span->first[0] || (number[0] == span->first[0] && number[1] < span->first[1]))
		return false;
	return number[0] < span->last[0] || (number[0] == span->last[0] && number[1] <= span->last[1]);
}

/* The next part of a rule behind `at`, NULL beyond the chunk's end (where maps.py puts none). */
static __always_inline void *part(struct chunk *chunk, __u32 *at, __u32 size)
{
	__u64 start = *at & 0x1f8; /* a multiple of 8 as it is, but the verifier wants to see it */

	asm volatile("" : "+r"(start)); /* so that what is compared is what is added */
	if (start > CHUNK - size)
		return NULL;
	*at = start + size;
	return chunk->octets + start;
}

static __always_inline bool holds(struct chunk *chunk, __u32 at, const struct rule *rule, const struct flow *flow)
{
	if (rule->family != flow->family || rule->conditions & flow->absent)
		return false;
	if ((__u16)(flow->destination_port - rule->destination_port) > rule->destination_ports)
		return false;
	if ((__u16)(flow->source_port - rule->source_port) > rule->source_ports)
		return false;
	if ((__u8)(flow->protocol - rule->protocol) > rule->protocols)
		return false;
	if ((__u8)(flow->codepoint - rule->codepoint) > rule->codepoints)
		return false;
	if (rule->conditions & (SPI | FLOW_LABEL)) {
		struct labels *labels = part(chunk, &at, sizeof(*labels));

		if (!labels || flow->spi - labels->spi > labels->spis)
			return false;
		if (flow->flow_label - labels->flow_label > labels->flow_labels)
			return false;
	}
	if (rule->conditions & SOURCE) {
		struct span *span = part(chunk, &at, sizeof(*span));

		if (!span || !within(span, flow->source))
			return false;
	}
	if (rule->conditions & DESTINATION) {
		struct span *span = part(chunk, &at, sizeof(*span));

		if (!span || !within(span, flow->destination))
			return false;
	}
	return true;
}

/* Where the first rule of a chunk that matches starts; -1 when none does. Not static: the verifier looks at it once. */
__attribute__((noinline)) int search(struct chunk *chunk, struct flow *flow)
{
	__u32 at = 0;

	if (!chunk || !flow)
		return -1;
	for (int i = 0; i < CHUNK / sizeof(struct rule); i++) {
		__u32 behind = at;
		struct rule *rule = part(chunk, &behind, sizeof(*rule));

		if (!rule || !rule->size)
			break;
		if (holds(chunk, behind, rule, flow))
			return at;
		at += rule->size;
	}
	return -1;
}

/* Decide by the first rule that matches, of `count` chunks. Not static, as search(). */
__attribute__((noinline)) int classify(struct decision *decision, __u32 count, __u32 uplink)
{
	struct chunk_key key = {};
	struct flow flow;

	if (!decision)
		return 0;
	decision->action = NO_RULE;
	decision->tick = 0;
	flow_of(&flow, decision, uplink);
	key.version = decision->version;
	for (__u32 i = 0; i < MAX_CHUNKS && i < count; i++) {
		struct weights *weights;
		struct chunk *chunk;
		struct rule *rule;
		__u32 at;
		int found;

		key.number = decision->first + i;
		chunk = bpf_map_lookup_elem(&rules, &key);
		if (!chunk)
			break;
		found = search(chunk, &flow);
		if (found < 0)
			continue;
		at = found;
		rule = part(chunk, &at, sizeof(*rule));
		if (!rule)
			break;
		decision->tunnels = rule->tunnels;
		decision->slot = rule->slot;
		decision->action = rule->action;
		if (rule->action == SHARE) {
			at = found + rule->size - sizeof(*weights);
			weights = part(chunk, &at, sizeof(*weights));
			if (weights)
				decision->weights = *weights;
		}
		break;
	}
	return 0;
}

/* The number in `decisions` of what the rules of a node say of a packet, or what it says of copies (`first` is MAX_CHUNKS):
 * as it was decided for the last packet that was alike. Not static, as search(). */
__attribute__((noinline)) int decide(const struct owner *owner, __u32 first, const struct packet *packet, __u32 uplink)
{
	const struct address *from, *to;
	struct decision *known;
	__u32 number, ports;
	__u64 mixed;

	if (!owner || !packet)
		return 0;
	from = &packet->source;
	to = &packet->destination;
	ports = (__u32)packet->source_port << 16 | packet->destination_port;
	mixed = ((__u64)from->words[2] << 32 | from->words[3]) + ((__u64)from->words[0] << 32 | from->words[1]);
	mixed *= 0x9e3779b97f4a7c15;
	mixed ^= ((__u64)to->words[2] << 32 | to->words[3]) + ((__u64)to->words[0] << 32 | to->words[1]);
	mixed ^= (__u64)ports << 16 | packet->protocol;
	mixed *= 0x9e3779b97f4a7c15;
	number = mixed >> 54;
	known = bpf_map_lookup_elem(&decisions, &number);
	if (!known)
		return number;
	if (known->version == owner->version && known->first == first && known->family == packet->family &&
	    same(&known->source, from) && same(&known->destination, to) && known->protocol == packet->protocol &&
	    known->source_port == packet->source_port && known->destination_port == packet->destination_port &&
	    known->codepoint == packet->traffic_class >> 2 && known->flow_label == packet->flow_label &&
	    known->spi == packet->spi && known->absent == packet->absent)
		return number;
	known->version = owner->version;
	known->first = first;
	known->family = packet->family;
	known->source = *from;
	known->destination = *to;
	known->protocol = packet->protocol;
	known->source_port = packet->source_port;
	known->destination_port = packet->destination_port;
	known->codepoint = packet->traffic_class >> 2;
	known->flow_label = packet->flow_label;
	known->spi = packet->spi;
	known->absent = packet->absent;
	classify(known, first ? owner->copied : owner->chunks, uplink);
	return number;
}

/* The same, of `decisions`. */
static __always_inline struct decision *decision_of(const struct owner *owner, __u32 first, const struct packet *packet,
						    bool uplink)
{
	__u32 number = decide(owner, first, packet, uplink);

	return bpf_map_lookup_elem(&decisions, &number);
}
