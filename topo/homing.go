package topo

import (
	"fmt"
	"net/netip"
	"slices"
)

// Circuit is one of the ways by which a site is attached to a VPC: that to its
// PE, or that to its second one.
type Circuit struct {
	PE     string
	PEIf   string       // interface at the PE
	CEIf   string       // interface at the CE: wan, wan2; "" before the site has joined
	VRF    string       // l3vpn: VRF of the PE
	VSI    string       // vpls: VSI of the PE
	PEAddr netip.Prefix // l3vpn: PE end
	CEAddr netip.Addr   // l3vpn: CE end, next hop of the LAN
	// Preference of the PE's word that the site is reached by it, as LOCAL_PREF
	// (RFC 4271, section 5.1.5) and in a vpls for who is the designated
	// forwarder: the higher one counts. 0: there is no other circuit.
	Preference int
}

// Preferences of the two circuits of a site; 100 is what BGP takes where
// nothing is said.
const (
	firstPreference  = 200
	backupPreference = 100
)

// Metrics of a CE's routes by its two circuits.
const (
	firstMetric  = 10
	backupMetric = 20
)

// wan is the CE's interface of its first (0) or second (1) circuit.
func wan(n int) string { return [...]string{"wan", "wan2"}[n] }

// Circuits are the attachment's circuits, the preferred one first.
func (a *Attachment) Circuits() []Circuit {
	first := Circuit{PE: a.PE, PEIf: a.PEIf, VRF: a.VRF, VSI: a.VSI, PEAddr: a.PEAddr, CEAddr: a.CEAddr}
	if a.Joined {
		first.CEIf = wan(0)
	}
	if a.Backup == nil {
		return []Circuit{first}
	}
	first.Preference = firstPreference
	return []Circuit{first, *a.Backup}
}

// At is the attachment's circuit at a PE.
func (a *Attachment) At(pe string) (Circuit, bool) {
	all := a.Circuits()
	i := slices.IndexFunc(all, func(k Circuit) bool { return k.PE == pe })
	if i < 0 {
		return Circuit{}, false
	}
	return all[i], true
}

// port is a name for the PE's end of the circuit of a VPC at a site.
func (b *builder) port(v *VPCPlan, s SitePlan, pe string) string {
	return b.ifs[pe].take(fmt.Sprintf("%s-%d", v.Name, s.Index))
}

// join makes an attached site part of its VPC: the circuit to the PE, or to
// both, and the VRF or VSI there if it is the PE's first site.
func (b *builder) join(v *VPCPlan, a *Attachment) {
	a.Joined = true
	first := b.circuit(v, a, 0)
	a.VRF, a.VSI, a.PEAddr, a.CEAddr = first.VRF, first.VSI, first.PEAddr, first.CEAddr
	if a.Backup != nil {
		second := b.circuit(v, a, 1)
		second.Preference = backupPreference
		a.Backup = &second
	}
	b.index[a.CE].Routes = nil
	if v.Service == ServiceL3VPN {
		b.index[a.CE].Routes = a.out(everywhere)
	}
}

// out are the routes of the CE of an l3vpn to what is elsewhere, one for each
// circuit. Of two, the kernel passes over that by a circuit without a carrier.
func (a *Attachment) out(dst netip.Prefix) (routes []Route) {
	for n, k := range a.Circuits() {
		r := Route{Dst: dst, Via: k.PEAddr.Addr(), Dev: k.CEIf}
		if a.Backup != nil {
			r.Metric = [...]int{firstMetric, backupMetric}[n]
		}
		routes = append(routes, r)
	}
	return routes
}

// circuit makes the first (0) or second (1) circuit of a site.
func (b *builder) circuit(v *VPCPlan, a *Attachment, n int) Circuit {
	k := Circuit{PE: a.PE, PEIf: a.PEIf, CEIf: wan(n)}
	if n > 0 {
		k.PE, k.PEIf = a.Backup.PE, a.Backup.PEIf
	}
	l := Link{
		A:   Endpoint{Node: k.PE, Ifname: k.PEIf, MAC: lanMAC(v.Index, a.Index, macCircuitPE+2*n)},
		B:   Endpoint{Node: a.CE, Ifname: k.CEIf, MAC: lanMAC(v.Index, a.Index, macCircuitCE+2*n)},
		MTU: v.MTU, VPC: v.Name, Site: a.Site, AC: true,
	}
	access := b.site(a.Site).Access
	l.AtoB, l.BtoA = access, access
	if v.Service == ServiceVPLS {
		k.VSI = vsiName(v.Name)
		l.A.Bridge, l.B.Bridge, l.Closed = k.VSI, "lan", n > 0
		b.vsi(v, k.PE)
	} else {
		k.VRF = vrfName(v.Name)
		pe, ce := circuitEnds(a.Index, n)
		k.PEAddr, k.CEAddr = pe, ce.Addr()
		l.A.VRF, l.A.Addr, l.B.Addr = k.VRF, pe, ce
		b.vrf(v, k.PE)
	}
	b.link(l)
	return k
}

// backupPE reports what is wrong with a site's second PE.
func (c *checker) backupPE(f fullScenario, s Site, at []string) {
	pes := f.Topology.Backbone.PE
	own := append(slices.Clone(at), "backup-pe")
	if s.BackupPE == "" || c.lost(own...) || c.unsure("topology", "backbone", "pe") {
		return
	}
	switch {
	case !slices.Contains(pes, s.BackupPE):
		msg := fmt.Sprintf("there is no PE %q; expected %s", s.BackupPE, oneOf(pes))
		if slices.Contains(f.Topology.Backbone.P, s.BackupPE) {
			msg = fmt.Sprintf("%q is a P router, and sites are homed to PEs; expected %s", s.BackupPE, oneOf(pes))
		}
		c.fault(own, msg, suggest(s.BackupPE, pes))
	case s.BackupPE == s.PE:
		c.fault(own, fmt.Sprintf("%s is the site's first PE already; expected another", s.PE), "")
	default:
		for _, pe := range []string{s.PE, s.BackupPE} {
			if f.Topology.Backbone.of(pe) == RoutingFRR {
				c.fault(own, fmt.Sprintf("%s runs FRR, and only vpclab's own speakers say which of two PEs is preferred", pe), "set `routing: controller` at that PE, or home the site to one PE")
				return
			}
		}
	}
}
