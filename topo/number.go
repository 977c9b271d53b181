package topo

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
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
//	169.254.s.2/31   its circuit to a second PE, likewise: .2 the PE, .3 the CE
//	10.v.s.0/24      l3vpn: LAN of VPC v at site s: .1 the gateway, .(10+m) machine m
//	  chosen subnets the same up to /24; in narrower ones the first address
//	  is the gateway's, then come the machines
//	10.v.0.0/16      vpls: all LANs of VPC v: 10.v.s.(10+m) machine m of site s
//	  in a chosen subnet the machines are numbered through, site by site:
//	  .(10+k) the k-th, .(1+k) in one narrower than /24
//	100.64.0.0/10    l3vpn: what is behind a site besides its LAN: single addresses from
//	                 100.64.0.0 + 16384·(s-1) on
//	10.251.s.h       host h of site s in the network of the hosts: VPC 251, there where VMs have
//	                 guests
//
//	02:VV:VV:SS:MM:MM  in the LAN of VPC v at site s (all hexadecimal), MM:MM:
//	                     0000 gateway           00mm machine m
//	                     8000 + m  where machine m is plugged in
//	                     40hh bridge of host h  41hh its uplink  42hh where that is plugged in
//	                     f000 PE end of the circuit, f001 CE end
//	                     f002 PE end of that to a second PE, f003 CE end
//	02:VV:VV:00:00:ee  bridge of VPC v, a vpls, at PE e
//	02:ff:KK:KK:00:NN  core link k: NN 01 its first end, 02 its second
//	02:fe:KK:KK:00:NN  link k between bare nodes, likewise
//
//	label 10000+100r+e    what router r gave out for the LSP to PE e
//	label 20000+100v+e    l3vpn: what PE e gave out for VPC v
//	                      vpls: what each PE gave out for the pseudowire of VPC v that PE e
//	                      sends on; inside that PE the way back to PE e
//	  beyond 99 routers: 10000+(r-1)E+e and 10000+R·E+(v-1)E+e, for E PEs and R routers
//	label 5000+r          on to router r: a hop of an explicit path
//	label 6000+2n-1, 6000+2n  reservation n, there and back
//
//	table 1000+v            VRF of VPC v
//	table 6000+2n-1, 6000+2n  the one route of reservation n, there and back
//	RD <asn>:<1000v+e>      VPC v at PE e: distinct, so that no route hides another
//	RT <asn>:<1000v+s>      export of VPC v at site s
//	RT <asn>:<1000000+1000v>  import of VPC v, at every site
const (
	maxPEs      = 250
	maxPs       = 250
	maxSites    = 250
	maxVPCs     = 250
	maxMachines = 0x3fff

	infraVPC = maxVPCs + 1 // the network of the hypervisor hosts

	maxReservations = 1000 // two labels each, below those of LSPs

	lspBase       = 10000
	vpnBase       = 20000
	labelStep     = 100
	adjacencyBase = 5000
	reservedBase  = 6000
	tableBase     = 1000
	numberStep    = 1000
	importRTBase  = 1_000_000
	firstMachine  = 10 // .(10+m) in a default LAN

	defaultMTU    = 1500                        // of LANs, as in the schema
	defaultAgeing = Duration(300 * time.Second) // of MACs in a vpls: IEEE 802.1Q's, and the kernel's
)

// What a frame of a vpls has in the backbone beside the MTU of its LAN: its
// Ethernet header, and the labels above it (RFC 4448, RFC 3032).
const (
	etherHeader = 14
	labelBytes  = 4
)

// frameOf is how many bytes of a backbone link's MTU the largest frame of a
// vpls takes under so many labels.
func frameOf(mtu, labels int) int { return mtu + etherHeader + labels*labelBytes }

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

// circuitEnds are the addresses of the circuit of site s to its first (0) or
// second PE (1), the PE's first.
func circuitEnds(s, n int) (pe, ce netip.Prefix) {
	base := netip.AddrFrom4([4]byte{169, 254, byte(s), byte(2 * n)})
	return netip.PrefixFrom(base, 31), netip.PrefixFrom(base.Next(), 31)
}

// defaultLAN is the subnet that VPC v has at site s when none is chosen.
func defaultLAN(v, s int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(v), byte(s), 0}), 24)
}

// defaultSubnet is the one subnet of VPC v, a vpls, when none is chosen.
func defaultSubnet(v int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(v), 0, 0}), 16)
}

// moreSpace is where the prefixes behind sites are, a stretch of moreRoom for
// each site (RFC 6598: the addresses between customers and providers, which no
// host of either has).
var moreSpace = netip.MustParsePrefix("100.64.0.0/10")

const (
	moreRoom = 1 << 14
	maxMore  = 10_000
)

// moreOf are the first n prefixes behind site s.
func moreOf(s, n int) Run {
	if n == 0 {
		return Run{}
	}
	return Run{host(offset(moreSpace, moreRoom*(s-1))), n}
}

// block is the addresses of a LAN and how its machines are numbered in it.
type block struct {
	Subnet netip.Prefix // with the prefix length that interfaces get
	from   netip.Prefix // the part that machines are numbered in
}

// block is where the machines of a VPC at one of its sites are numbered.
func (v *VPCPlan) block(a *Attachment) block { return blockOf(v.Service, v.Index, a.Index, a.Subnet) }

// blockOf is the block of VPC v at site s: a part of the subnet, where that is
// the default one of a vpls.
func blockOf(service string, v, s int, subnet netip.Prefix) block {
	if service == ServiceVPLS && subnet == defaultSubnet(v) {
		return block{subnet, defaultLAN(v, s)}
	}
	return block{subnet, subnet}
}

// throughout says that the machines of all sites are numbered through in one
// subnet: a vpls with a chosen one.
func (v *VPCPlan) throughout() bool {
	return v.Service == ServiceVPLS && v.Subnet != defaultSubnet(v.Index)
}

// gateway is the CE's address in the LAN of an l3vpn.
func (k block) gateway() netip.Prefix { return netip.PrefixFrom(offset(k.from, 1), k.Subnet.Bits()) }

// machine is the address of machine m.
func (k block) machine(m int) netip.Addr {
	if k.wide() {
		m += firstMachine - 1
	}
	return offset(k.from, 1+m)
}

// wide says that the LAN is numbered like a default one: .(10+m), so that a
// person knows a machine's address without looking it up.
func (k block) wide() bool { return k.from.Bits() <= 24 }

// room is how many machines there are addresses for.
func (k block) room() int {
	if k.from.Bits() > 30 {
		return 0
	}
	n := 1<<(32-k.from.Bits()) - 3 // without network, broadcast, gateway
	if k.wide() {
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

// numberOf is the machine's number in a MAC of the form of lanMAC.
func numberOf(m MAC) int { return int(m[4])<<8 | int(m[5]) }

// vsiMAC is the bridge of VPC v at PE e: there is no site 0.
func vsiMAC(v, e int) MAC { return lanMAC(v, 0, e) }

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

// vpn is what PE e gives out for VPC v, an l3vpn; for a vpls, what each PE
// gives out to PE e.
func (l labels) vpn(v, e int) uint32 {
	if l.byEye() {
		return uint32(vpnBase + labelStep*v + e)
	}
	return uint32(lspBase + l.routers*l.pes + (v-1)*l.pes + e)
}

// adjacencyLabel leads on to router r, whoever gives it out.
func adjacencyLabel(r int) uint32 { return uint32(adjacencyBase + r) }

// reservedLabel is that of reservation n, there (0) or back (1).
func reservedLabel(n, direction int) uint32 { return uint32(reservedBase + 2*n - 1 + direction) }

func rd(asn uint32, v, e int) string { return fmt.Sprintf("%d:%d", asn, numberStep*v+e) }

func exportRT(asn uint32, v, s int) string { return fmt.Sprintf("%d:%d", asn, numberStep*v+s) }

func importRT(asn uint32, v int) string {
	return fmt.Sprintf("%d:%d", asn, importRTBase+numberStep*v)
}
