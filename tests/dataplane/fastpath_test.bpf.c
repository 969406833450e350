/* The fast path with one more program: what encap_egress does, for packets with an Ethernet header, which is what
 * BPF_PROG_TEST_RUN has. And with a clock that a test may set: jiffies are nanoseconds then. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* In nanoseconds; 0: the kernel's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} test_clock SEC(".maps");

static __u64 (*const real_boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static __u64 (*const real_jiffies)(void) = (void *)BPF_FUNC_jiffies64;

static __always_inline __u64 test_time(void)
{
	__u32 zero = 0;
	__u64 *now = bpf_map_lookup_elem(&test_clock, &zero);

	return now ? *now : 0;
}

#define bpf_ktime_get_boot_ns() (test_time() ?: real_boot_ns())
#define bpf_jiffies64() (test_time() ?: real_jiffies())

#include "../../mip6/dataplane/fastpath.bpf.c"

SEC("tc")
int encap_frame(struct __sk_buff *skb)
{
	return encapsulate(skb, ETH_HLEN, false);
}
