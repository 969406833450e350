/* What stands in the maps. mip6/dataplane/maps.py writes it; names, order and sizes are the same there.
 *
 * What an owner entry points to, tunnels and chunks of rules, is never changed: a change writes it anew elsewhere, then
 * lets the owner entries point there, and the old is used again only when no program can look at it any more. So a packet
 * sees all of the old node or all of the new one.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define CHUNK 448     /* octets of rules under one key */
#define MAX_CHUNKS 22 /* of a node: 64 rules of the largest size */
#define MAX_TUNNELS 16
#define DECISIONS 1024 /* remembered by each CPU */
#define FLOWS 65536    /* shared ones, as mip6/memory.py */
#define BUCKETS 8192   /* of WAYS contents: as many as mip6/duplicates.py remembers; a power of two, as WAYS */
#define WAYS 8
#define PATHS 8	  /* of a content, which are counted */
#define PIECE 128 /* octets that are hashed at once */
#define NO_SLOT 0xff
#define HOPS 256 /* remembered; a power of two */
#define ADDRESS_FAMILY_BITS 32

/* mip6.forwarding.DropReason, in its order */
enum reason {
	MALFORMED,
	NO_NODE,
	NO_TUNNEL,
	RULE,
	SOURCE_NOT_OWNED,
	DESTINATION_NOT_OWNED,
	UNKNOWN_OUTER_SOURCE,
	UNKNOWN_OUTER_DESTINATION,
	NOT_FORWARDABLE,
	HOP_LIMIT,
	TOO_BIG,
	ECN,
	LOOP,
	INNER_PROTOCOL,
	DUPLICATE,
	SEND_FAILED,
	REASONS
};

/* In network order; IPv4 in the first word, zeros behind it. */
struct address {
	__u32 words[4];
};

struct settings {
	__u32 uplink;    /* the mobile node's end */
	__u32 tunnel;    /* interface index of the tunnel device */
	__u32 deliver;   /* interface that decapsulated packets enter by; 0: the one they came by */
	__u32 eliminate; /* duplicates of what a node's far end may n-cast */
	__u32 zero_checksum; /* in UDP over IPv6 (RFC 6935) */
	__u32 forward;   /* the short cut out of tunnels is taken */
	__u64 key[2];    /* of what stands for a content; it stays while the maps do */
};

struct owner_key {
	__u32 prefix_length; /* in bits, those of the family included */
	__u32 family;        /* 4 or 6 */
	struct address address;
};

/* A node, as each of its prefixes tells of it. */
struct owner {
	struct address home;
	__u32 tunnels;   /* index of its first one; the others stand behind it */
	__u32 version;   /* of the rules */
	__u16 chunks;    /* of rules */
	__u8 count;      /* of tunnels */
	__u8 first;      /* slot of the tunnel for what no rule matches, or NO_SLOT */
	__u8 userspace;  /* nothing is sent by the fast path */
	__u8 copied;     /* chunks of what the far end may n-cast; MAX_CHUNKS is the number of the first */
	__u8 spare[2];
};

struct chunk_key {
	__u32 version;
	__u32 number;
};

/* Of a tunnel, or of a packet that arrived. */
struct ends {
	struct address local, remote;
	__be16 local_port, remote_port; /* of UDP, else 0 */
	__u32 family;			/* 4 or 6 */
};

enum {
	TUNNEL_RAW = 1,  /* its device has no link-layer header */
	TUNNEL_AWAY = 2, /* userspace sends over it */
};

struct tunnel {
	struct ends ends;
	__u64 expires; /* on CLOCK_BOOTTIME in nanoseconds; 0: never */
	__u32 device;  /* interface index; 0: the routes decide */
	__u32 counter; /* index */
	__u32 serial;  /* unlike that of any other */
	__u16 mtu;
	__u16 bid;
	__u8 flags;
	__u8 spare[7];
};

enum { SPI = 1, FLOW_LABEL = 2, SOURCE = 4, DESTINATION = 8, PORTS = 16 };
enum { SEND, DROP, USERSPACE, SHARE, NO_RULE };

/* A rule that may be chosen; inactive ones are left out. Ranges are first value and how many follow it, in host order.
 * Behind it stand, where the conditions say so, first SPI and flow label (struct labels, both or none), then source and
 * destination (struct span), last the weights of SHARE. A size of 0 ends a chunk before its end. */
struct rule {
	__u8 size; /* of all of it, in octets */
	__u8 family;
	__u8 conditions; /* a packet without ports cannot meet PORTS, one without SPI not SPI */
	__u8 action;
	__u16 tunnels; /* slots, as a mask */
	__u8 codepoint, codepoints;
	__u16 source_port, source_ports;
	__u16 destination_port, destination_ports;
	__u8 protocol, protocols;
	__u8 slot; /* the first of the mask */
	__u8 spare[5];
};

struct chunk {
	__u8 octets[CHUNK];
};

struct labels {
	__u32 spi, spis;
	__u32 flow_label, flow_labels;
};

/* First and last address, upper half first; IPv4 in the lower one. */
struct span {
	__u64 first[2], last[2];
};

struct weights {
	__u16 of[MAX_TUNNELS]; /* by slot */
};

/* What the rules of one version (0) or what it says of copies (MAX_CHUNKS: `first`) come to for packets that are alike in
 * all that a rule can ask. A version never changes, so it need not be looked up again. Of one CPU. */
struct decision {
	struct address source, destination;
	__u32 spi, flow_label;
	__u16 source_port, destination_port;
	__u8 codepoint, protocol, family, absent;
	__u32 version;
	__u16 tunnels; /* as in the rule */
	__u8 first, action, slot;
	__u8 taken; /* SHARE: the slot that this flow took in `tick` */
	__u8 spare[6];
	__u64 tick;
	struct weights weights;
};

/* A flow of mip6/sharing.py. */
struct shared_flow {
	__u64 source[2], destination[2], upper;
};

/* The tunnel that it goes over, and when its last packet was seen, on CLOCK_BOOTTIME in nanoseconds. */
struct choice {
	__u64 seen;
	__u32 bid;
	__u32 spare;
};

/* What stands for the content of an inner packet. */
struct content {
	__u64 halves[2];
};

/* Who brought a content how often; mip6/duplicates.py says what floor and mark are for. Until a path brings it a second
 * time (`repeats`) they do not count. Times are on CLOCK_BOOTTIME in nanoseconds. */
struct copies {
	__u64 half; /* the content's second */
	__u64 delivered_at, marked_at;
	__u32 delivered, floor, mark;
	__u8 repeats, places, spare[2];
	__u32 counts[PATHS];
	__u16 paths[PATHS]; /* BIDs */
};

struct bucket {
	struct bpf_spin_lock lock;
	__u32 spare;
	__u64 halves[WAYS]; /* of the contents the first: what is searched lies close together */
	__u64 seen[WAYS];
	struct copies known[WAYS];
};

struct piece {
	__u64 words[PIECE / 8];
};

struct count {
	__u64 packets_out, bytes_out, packets_in, bytes_in;
	__u64 packets_first, packets_duplicate; /* of what is n-cast */
};

/* Of one CPU. */
struct state {
	__u64 tick; /* jiffies when `now` was read */
	__u64 now;  /* CLOCK_BOOTTIME in nanoseconds */

	/* n-casting: what the program on the tunnel device is to do with a copy, while one is `waiting` */
	struct address home;
	__u32 tunnel;
	__u32 length;
	__u8 waiting, family, traffic_class, forwarded;
	__u16 left; /* slots of the tunnels to send over; the last of them is for the packet itself */
	__u16 last;
};

/* How the neighbour behind a tunnel is reached in this lap. */
struct hop {
	__u64 lap;
	__u32 serial; /* of the tunnel */
	__u32 device;
	__u8 destination[ETH_ALEN], source[ETH_ALEN];
	__u32 spare;
};

/* Where packets from one address to another are routed in this lap. */
struct routed {
	__u64 lap;
	struct address source, destination;
	__u32 from;   /* the device that they came by */
	__u32 device; /* that they leave by; 0: not known */
	__u32 mtu;
	__u8 family, protocol, traffic_class;
	__u8 fresh; /* none was sent that way yet */
	struct bpf_redir_neigh next;  /* the neighbour; without family: the stack has to find it */
	__u8 hardware[2 * ETH_ALEN]; /* as in an Ethernet header */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 24);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct owner_key);
	__type(value, struct owner);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 8);
	__type(key, __u32);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct chunk_key);
	__type(value, struct chunk);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << 8);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

/* Ends that some node has a tunnel between. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ends);
	__type(value, __u32);
} pairs SEC(".maps");

/* Addresses that tunnels end at here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOPS);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOPS);
	__type(key, __u32);
	__type(value, struct routed);
} ways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DECISIONS);
	__type(key, __u32);
	__type(value, struct decision);
} decisions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct shared_flow);
	__type(value, struct choice);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct piece);
} pieces SEC(".maps");

/* No program reads it: replacing its element waits until no program runs that began before. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, struct settings);
	});
} grace SEC(".maps");

static __always_inline int drop(enum reason reason)
{
	__u32 index = reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &index);

	if (count)
		*count += 1;
	return TC_ACT_SHOT;
}

/* Whether the binding's lifetime has ended: that matters while no daemon runs. The clock is read once in a tick. */
static __always_inline bool expired(struct state *state, __u64 expires)
{
	__u64 tick = bpf_jiffies64();

	if (state->tick != tick) {
		state->tick = tick;
		state->now = bpf_ktime_get_boot_ns();
	}
	return expires && state->now >= expires;
}

/* The number of the lap of eight ticks (32 ms at 250 Hz) that this is: routes are looked up anew in each. */
static __always_inline __u64 current_lap(void)
{
	return bpf_jiffies64() >> 3;
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return !((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) | (a->words[2] ^ b->words[2]) |
		 (a->words[3] ^ b->words[3]));
}
