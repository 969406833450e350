/* The fast path with programs that can be measured: BPF_PROG_TEST_RUN repeats with the packet as the run before left it,
 * so each of these restores it. */
#include "../mip6/dataplane/fastpath.bpf.c"

/* A content that no packet had before, so that none is a repeat of another. */
static __always_inline int renew(struct __sk_buff *skb)
{
	__u64 content = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();

	return bpf_skb_store_bytes(skb, ETH_HLEN + IPV6_HEADER + 8, &content, sizeof(content), 0);
}

SEC("tc")
int renew_alone(struct __sk_buff *skb)
{
	return renew(skb);
}

SEC("tc")
int grow_and_shrink(struct __sk_buff *skb)
{
	renew(skb);
	bpf_skb_adjust_room(skb, IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return bpf_skb_adjust_room(skb, -IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

SEC("tc")
int encap_and_shrink(struct __sk_buff *skb)
{
	int result;

	renew(skb);
	result = encapsulate(skb, ETH_HLEN, false);

	if (result == TC_ACT_REDIRECT)
		bpf_skb_adjust_room(skb, -IPV6_HEADER, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return result;
}

SEC("tc")
int encap_and_decap(struct __sk_buff *skb)
{
	int result;

	renew(skb);
	result = encapsulate(skb, ETH_HLEN, false);

	return result == TC_ACT_REDIRECT ? decapsulate(skb, ETH_HLEN) : result;
}
