// Package mpls turns a plan's numbers into labels in the kernel: label
// switched paths through the core, VRFs at its edge, and the guards without
// which one tenant would meet another or the provider.
//
// Division of labour:
//
//   - compile.go: [Compile] adds to a fabric.State what does not change while
//     BGP runs: core routes, incoming label maps, VRFs, rules, sysctls;
//   - vpls.go: the ground for pseudowires, which the speakers make;
//   - reserve.go: classes, labels and rules of reservations;
//   - vpnroute.go: [VPNRoute] is the one place that knows which labels a
//     packet to another site gets; the BGP speakers ask it;
//   - read.go: [Read] reports labels and VRF routes as the kernel has them.
//
// It writes nothing itself: emu/fabric applies the state, the speakers of
// emu/bgp program the routes they learn.
//
// # TTL
//
// The lab keeps the kernel's default, net.mpls.ip_ttl_propagate=1: the ingress
// PE copies the IP TTL into both labels (the uniform model of RFC 3443), so a
// capture shows how far a packet has come. A P router decrements the LSP label
// only; the kernel does not copy it into the VPN label when it pops, so the
// core costs a packet no IP TTL, but one that runs out inside is dropped
// without ICMP. A traceroute between sites therefore shows the CE, the ingress
// PE, a star for each P router, and then whatever still has a TTL to run out:
// with two or more P routers, the host at once. The egress PE is no hop of its
// own: popping the VPN label and forwarding in the VRF cost one together.
package mpls
