// Package mpls turns a plan's numbers into labels in the kernel: label
// switched paths through the core, VRFs at its edge, and the guards without
// which one tenant would meet another or the provider.
//
// Division of labour:
//
//   - compile.go: [Compile] adds to a fabric.State what does not change while
//     BGP runs: core routes, incoming label maps, VRFs, rules, sysctls;
//   - vpnroute.go: [VPNRoute] is the one place that knows which labels a
//     packet to another site gets; the BGP speakers ask it;
//   - read.go: [Read] reports labels and VRF routes as the kernel has them.
//
// It writes nothing itself: emu/fabric applies the state, the speakers of
// emu/bgp program the routes they learn.
//
// # TTL
//
// The lab keeps the kernel's default, the uniform model of RFC 3443:
// net.mpls.ip_ttl_propagate=1 copies the IP TTL into the labels and back. A
// capture then shows the hop count on every link, and a traceroute from site
// to site shows the ingress PE, one star for each later router of the LSP
// (P routers send no ICMP for labelled packets) and the host. The egress PE
// is no hop of its own: popping the VPN label and forwarding in the VRF cost
// one decrement together.
package mpls
