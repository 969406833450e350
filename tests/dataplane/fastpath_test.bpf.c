/* The fast path with one more program: what encap_egress does, for packets with an Ethernet header, which is what
 * BPF_PROG_TEST_RUN has. */
#include "../../mip6/dataplane/fastpath.bpf.c"

SEC("tc")
int encap_frame(struct __sk_buff *skb)
{
	return encapsulate(skb, ETH_HLEN, false);
}
