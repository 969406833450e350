/* The fast path: what mip6/forward.py says, for tc. mip6/dataplane/maps.py tells where each program is attached. */
#include "fastpath/decapsulate.h"
#include "fastpath/encapsulate.h"

SEC("tc")
int encap_egress(struct __sk_buff *skb)
{
	return encapsulate(skb, 0, false);
}

SEC("tc")
int encap_ingress(struct __sk_buff *skb)
{
	return encapsulate(skb, ETH_HLEN, true);
}

SEC("tc")
int encap_raw(struct __sk_buff *skb)
{
	return encapsulate(skb, 0, true);
}

SEC("tc")
int decap_ingress(struct __sk_buff *skb)
{
	return decapsulate(skb, ETH_HLEN);
}

SEC("tc")
int decap_raw(struct __sk_buff *skb)
{
	return decapsulate(skb, 0);
}

/* For userspace, which runs it: whether a packet that it received over the path `mark` is a duplicate. It stands behind an
 * Ethernet header. -1: that cannot be told. */
SEC("tc")
int eliminate(struct __sk_buff *skb)
{
	struct content content;

	if (skb->len < ETH_HLEN || !hash_content(skb, ETH_HLEN, skb->len - ETH_HLEN, &content))
		return -1;
	return is_duplicate(&content, skb->mark, bpf_ktime_get_boot_ns());
}

/* bpf_fib_lookup() is for programs that call themselves compatible with the GPL. */
char _license[] SEC("license") = "Dual MIT/GPL";
