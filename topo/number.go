package topo

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The numbers of a lab follow from the order of the file, by the rules here
// and nowhere else, so that a packet dump can be read by eye.
//
// Counting is from 1: PE e, P i, site s, VPC v, machine m of a LAN (VMs placed
// by hand come after the others), core link k (the route reflector's is the
// last), router r (PEs, then Ps, then the reflector).
//
//	10.255.0.e       loopback of PE e
//	10.255.1.i       loopback of P i
//	10.255.2.1       loopback of the route reflector
//	10.254.x.y/31    core link k: x·256+y is 2k at its first end, 2k+1 at its second
//	169.254.s.0/31   circuit of site s in each VPC: .0 the PE, .1 the CE
//	10.v.s.0/24      LAN of VPC v at site s: .1 the gateway, .(10+m) machine m
//	  chosen subnets the same up to /24; in narrower ones the first address
//	  is the gateway's, then come the machines
//
//	02:VV:VV:SS:MM:MM  in the LAN of VPC v at site s (all hexadecimal), MM:MM:
//	                     0000 gateway           00mm machine m
//	                     8000 + m  where machine m is plugged in
//	                     40hh bridge of host h  41hh its uplink  42hh where that is plugged in
//	                     f000 PE end of the circuit, f001 CE end
//	02:ff:KK:KK:00:NN  core link k: NN 01 its first end, 02 its second
//	02:fe:KK:KK:00:NN  link k between bare nodes, likewise
//
//	label 10000+100r+e    what router r gave out for the LSP to PE e
//	label 20000+100v+e    l3vpn: what PE e gave out for VPC v
//	                      vpls: what each PE gave out for the pseudowire of VPC v that PE e
//	                      sends on; inside that PE the way back to PE e
//	label 30000+r         on to router r: a hop of an explicit path
//	label 40000+2n-1, 40000+2n  reservation n, there and back
//	  beyond 99 routers: 10000+(r-1)E+e and 10000+R·E+(v-1)E+e, for E PEs and R routers
//
//	table 1000+v            VRF of VPC v
//	RD <asn>:<1000v+e>      VPC v at PE e: distinct, so that no route hides another
//	RT <asn>:<1000v+s>      export of VPC v at site s
//	RT <asn>:<1000000+1000v+s>  import of VPC v at site s
const (
	maxPEs      = 250
	maxPs       = 250
	maxSites    = 250
	maxVPCs     = 250
	maxMachines = 0x3fff

	lspBase       = 10000
	vpnBase       = 20000
	labelStep     = 100
	tableBase     = 1000
	numberStep    = 1000
	importRTBase  = 1_000_000
	firstMachine  = 10 // .(10+m) in a default LAN
	defaultLANMTU = 1500
)

func addr4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// offset is the address n after the first of p.
func offset(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().As4()
	return addr4(binary.BigEndian.Uint32(b[:]) + uint32(n))
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 32) }

// loopback of router number i of its kind.
func loopback(kind NodeKind, i int) netip.Addr {
	third := map[NodeKind]byte{KindPE: 0, KindP: 1, KindRR: 2}[kind]
	return netip.AddrFrom4([4]byte{10, 255, third, byte(i)})
}

// coreEnds are the addresses of the two ends of core link k.
func coreEnds(k int) (a, b netip.Prefix) {
	base := netip.AddrFrom4([4]byte{10, 254, byte(k >> 7), byte(2 * k)})
	return netip.PrefixFrom(base, 31), netip.PrefixFrom(base.Next(), 31)
}

// circuitEnds are the addresses of the circuit of site s, the PE's first.
func circuitEnds(s int) (pe, ce netip.Prefix) {
	base := netip.AddrFrom4([4]byte{169, 254, byte(s), 0})
	return netip.PrefixFrom(base, 31), netip.PrefixFrom(base.Next(), 31)
}

// defaultLAN is the subnet that VPC v has at site s when none is chosen.
func defaultLAN(v, s int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(v), byte(s), 0}), 24)
}

// gateway is the CE's address in the LAN.
func (l lan) gateway() netip.Prefix { return netip.PrefixFrom(offset(l.Subnet, 1), l.Subnet.Bits()) }

// machine is the address of machine m of the LAN.
func (l lan) machine(m int) netip.Prefix {
	if l.wide() {
		m += firstMachine - 1
	}
	return netip.PrefixFrom(offset(l.Subnet, 1+m), l.Subnet.Bits())
}

// wide says that the LAN is numbered like a default one: .(10+m), so that a
// person knows a machine's address without looking it up.
func (l lan) wide() bool { return l.Subnet.Bits() <= 24 }

// room is how many machines the LAN has addresses for.
func (l lan) room() int {
	if l.Subnet.Bits() > 30 {
		return 0
	}
	n := 1<<(32-l.Subnet.Bits()) - 3 // without network, broadcast, gateway
	if l.wide() {
		n -= firstMachine - 1
	}
	return min(n, maxMachines)
}

// What the last two bytes of a MAC in a LAN mean; see above.
const (
	macPort      = 0x8000
	macHost      = 0x4000
	macUplink    = 0x4100
	macUplinkTo  = 0x4200
	macCircuitPE = 0xf000
	macCircuitCE = 0xf001
)

func lanMAC(v, s, n int) MAC {
	return MAC{2, byte(v >> 8), byte(v), byte(s), byte(n >> 8), byte(n)}
}

func coreMAC(k, end int) MAC { return MAC{2, 0xff, byte(k >> 8), byte(k), 0, byte(end)} }

func plainMAC(k, end int) MAC { return MAC{2, 0xfe, byte(k >> 8), byte(k), 0, byte(end)} }

// labels gives out the MPLS labels of a backbone with so many routers.
type labels struct{ routers, pes int }

func (l labels) byEye() bool { return l.routers < labelStep }

// lsp is what router r gives out for the LSP to PE e.
func (l labels) lsp(r, e int) uint32 {
	if l.byEye() {
		return uint32(lspBase + labelStep*r + e)
	}
	return uint32(lspBase + (r-1)*l.pes + e)
}

// vpn is what PE e gives out for VPC v.
func (l labels) vpn(v, e int) uint32 {
	if l.byEye() {
		return uint32(vpnBase + labelStep*v + e)
	}
	return uint32(lspBase + l.routers*l.pes + (v-1)*l.pes + e)
}

func rd(asn uint32, v, e int) string { return fmt.Sprintf("%d:%d", asn, numberStep*v+e) }

func exportRT(asn uint32, v, s int) string { return fmt.Sprintf("%d:%d", asn, numberStep*v+s) }

func importRT(asn uint32, v, s int) string {
	return fmt.Sprintf("%d:%d", asn, importRTBase+numberStep*v+s)
}
