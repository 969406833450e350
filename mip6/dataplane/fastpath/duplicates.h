/* Duplicate elimination, as mip6/duplicates.py says: by content, with a count for each path.
 *
 * A content is known by 128 bits of SipHash-1-3 over the inner packet, with a secret key: nobody can make two packets that
 * look equal, and two honest ones do so once in 2^128. Contents stand in buckets; a new one takes the place of what was
 * not seen for longest. Each bucket has a lock, because two processors may have two copies at the same time.
 */
#pragma once

#include "classify.h"

#define WINDOW 2000000000 /* nanoseconds */

static __always_inline __u64 rotated(__u64 word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static __always_inline void sip_round(__u64 v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotated(v[1], 13) ^ v[0];
	v[3] = rotated(v[3], 16) ^ v[2];
	v[0] = rotated(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotated(v[1], 17) ^ v[2];
	v[3] = rotated(v[3], 21) ^ v[0];
	v[2] = rotated(v[2], 32);
}

static __always_inline void sip_word(__u64 v[4], __u64 word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/* A packet that is being hashed. */
struct hashing {
	struct __sk_buff *skb;
	struct piece *piece;
	__u32 at, left; /* in octets */
	__u64 v[4];
};

/* The next octets, with zeros behind the last ones. 1: that is all, or they cannot be read. */
static long hash_piece(__u32 number, struct hashing *hashing)
{
	__u32 size = hashing->left < PIECE ? hashing->left : PIECE;
	struct piece *piece = hashing->piece;
	__u64 v[4], last;

	if (!size)
		return 1;
	if (size < PIECE) {
		last = (size - 1) & (PIECE - 1); /* as it is, but the verifier wants to see it, also that the size is not 0 */
		piece->words[last / 8] = 0;
		asm volatile("" : "+r"(last));
		if (bpf_skb_load_bytes(hashing->skb, hashing->at, piece, last + 1))
			return 1;
	} else if (bpf_skb_load_bytes(hashing->skb, hashing->at, piece, PIECE)) {
		return 1;
	}
	__builtin_memcpy(v, hashing->v, sizeof(v));
	for (__u32 i = 0; i < PIECE / 8; i++) {
		if (i * 8 >= size)
			break;
		sip_word(v, piece->words[i]);
	}
	__builtin_memcpy(hashing->v, v, sizeof(v));
	hashing->at += size;
	hashing->left -= size;
	return 0;
}

/* What stands for the content of the `length` octets at `at`. 0: they cannot be read. Not static, as search(). */
__attribute__((noinline)) int hash_content(struct __sk_buff *skb, __u32 at, __u32 length, struct content *content)
{
	__u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct piece *piece = bpf_map_lookup_elem(&pieces, &zero);
	struct hashing hashing = {.skb = skb, .piece = piece, .at = at, .left = length};
	__u64 v[4];

	if (!set || !piece || !content)
		return 0;
	hashing.v[0] = set->key[0] ^ 0x736f6d6570736575;
	hashing.v[1] = set->key[1] ^ 0x646f72616e646f6d ^ 0xee;
	hashing.v[2] = set->key[0] ^ 0x6c7967656e657261;
	hashing.v[3] = set->key[1] ^ 0x7465646279746573;
	bpf_loop(length / PIECE + 1, hash_piece, &hashing, 0);
	if (hashing.left)
		return 0;
	__builtin_memcpy(v, hashing.v, sizeof(v));
	sip_word(v, length);
	v[2] ^= 0xee;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	content->halves[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	content->halves[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
	return 1;
}

/* Clocks of two processors may differ by a tick. */
static __always_inline bool is_past(__u64 then, __u64 now)
{
	return (__s64)(now - then) > WINDOW;
}

/* One more packet of a known content; the same steps as in the reference, counts beyond 2^32 included. */
static __always_inline bool is_repeated(struct copies *known, __u32 path, __u64 now)
{
	__u32 place, count;

	if (!known->repeats && is_past(known->delivered_at, now)) {
		known->places = 1;
		known->paths[0] = path;
		known->counts[0] = known->delivered = 1;
		known->delivered_at = now;
		return false;
	}
	for (place = 0; place < PATHS; place++)
		if (place >= known->places || known->paths[place] == path)
			break;
	if (place >= PATHS) /* nothing can be known of the path */
		return true;
	if (place >= known->places) {
		known->places = place + 1;
		known->paths[place] = path;
		known->counts[place] = !known->repeats;
		if (!known->repeats)
			return true;
	} else if (!known->repeats) {
		known->repeats = true;
		known->floor = 0;
		known->mark = 1;
		known->marked_at = known->delivered_at;
	}
	if (is_past(known->marked_at, now)) {
		if (is_past(known->delivered_at, now))
			known->mark = known->delivered;
		known->floor = known->mark;
		known->mark = known->delivered;
		known->marked_at = now;
	}
	count = known->counts[place];
	if ((__s32)(count - known->floor) < 0)
		count = known->floor;
	known->counts[place] = ++count;
	if ((__s32)(count - known->delivered) <= 0)
		return true;
	known->delivered = count;
	known->delivered_at = now;
	return false;
}

/* Whether a packet with this content that came over `path` at `now` is to be dropped. To be asked once for each. */
__attribute__((noinline)) int is_duplicate(struct content *content, __u32 path, __u64 now)
{
	__u32 number, way, oldest = 0;
	struct bucket *bucket;
	struct copies *known;
	bool repeated = false;

	if (!content)
		return 0;
	number = content->halves[1] & (BUCKETS - 1);
	bucket = bpf_map_lookup_elem(&buckets, &number);
	if (!bucket)
		return 0;
	bpf_spin_lock(&bucket->lock);
	for (way = 0; way < WAYS; way++) {
		if (bucket->halves[way] == content->halves[0] && bucket->known[way].half == content->halves[1])
			break;
		if ((__s64)(bucket->seen[way] - bucket->seen[oldest & (WAYS - 1)]) < 0)
			oldest = way;
	}
	if (way < WAYS) {
		known = &bucket->known[way & (WAYS - 1)];
		repeated = is_repeated(known, path, now);
	} else {
		way = oldest & (WAYS - 1);
		bucket->halves[way] = content->halves[0];
		known = &bucket->known[way];
		known->half = content->halves[1];
		known->repeats = false;
		known->places = 1;
		known->paths[0] = path;
		known->counts[0] = known->delivered = 1;
		known->delivered_at = now;
	}
	bucket->seen[way & (WAYS - 1)] = now;
	bpf_spin_unlock(&bucket->lock);
	return repeated;
}
