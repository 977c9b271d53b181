package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/vpclab/vpclab/emu/fabric"
)

// Session timers where Config leaves them open, in seconds.
const (
	defaultKeepalive = 3
	defaultHold      = 9
	defaultPort      = bgp.BGP_PORT
)

// maxLabel is the last of 2^20 label values; those below 16 are reserved (RFC
// 3032).
const (
	minLabel = 16
	maxLabel = 1<<20 - 1
)

// Validate says what is wrong with c, all at once, or nil. A speaker checks
// what it is told before it changes anything: GoBGP ends the process on some
// bad values.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Node == "" {
		bad("no node name")
	}
	if c.ASN == 0 || c.ASN > 65535 {
		bad("asn %d: want 1..65535 (route targets and RDs are of type 0)", c.ASN)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		bad("router id %q: want an IPv4 address", c.RouterID)
	}
	seen := map[netip.Addr]bool{}
	for _, n := range c.Neighbors {
		if !n.Is4() || n == c.RouterID || seen[n] {
			bad("neighbor %q: want an IPv4 address other than our own, once", n)
		}
		seen[n] = true
	}
	if c.Keepalive < 0 || c.Hold < 0 || (c.Hold > 0 && c.Hold < 3) || c.hold() < c.keepalive() || c.Hold > 65535 {
		bad("timers: keepalive %d s, hold %d s: want hold of at least 3 and not below keepalive", c.Keepalive, c.Hold)
	}
	if c.Reflector && (len(c.VRFs) > 0 || len(c.VSIs) > 0 || len(c.Tunnels) > 0) {
		bad("a reflector has no VRFs, no VSIs and no tunnels")
	}
	if !c.Reflector && len(c.Policy) > 0 {
		bad("policy belongs to the reflector")
	}
	errs = append(errs, c.validateVRFs()...)
	errs = append(errs, c.validateVSIs()...)
	errs = append(errs, c.validateLabels()...)
	errs = append(errs, c.validateTunnels()...)
	for _, r := range c.Policy {
		for _, rt := range append(append([]string(nil), r.From...), r.To...) {
			if err := validateRT(rt); err != nil {
				bad("policy %s: %w", r.Name, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("speaker config of %q: %w", c.Node, err)
	}
	return nil
}

func (c *Config) validateVRFs() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	tables, rds := map[int]bool{}, map[string]bool{}
	for _, v := range c.VRFs {
		if v.Name == "" {
			bad("vrf of table %d: no name", v.Table)
		}
		// 253..255 are default, main and local.
		if v.Table <= 0 || (v.Table >= 253 && v.Table <= 255) || tables[v.Table] {
			bad("vrf %s: table %d: want a table of its own", v.Name, v.Table)
		}
		tables[v.Table] = true
		if _, err := bgp.ParseRouteDistinguisher(v.RD); err != nil || rds[v.RD] {
			bad("vrf %s: route distinguisher %q: want <asn>:<number>, once", v.Name, v.RD)
		}
		rds[v.RD] = true
		if v.Label < minLabel || v.Label > maxLabel {
			bad("vrf %s: label %d: want %d..%d", v.Name, v.Label, minLabel, maxLabel)
		}
		prefixes := map[netip.Prefix]bool{}
		for _, k := range v.Circuits {
			if !k.Prefix.IsValid() || !k.Prefix.Addr().Is4() || k.Prefix != k.Prefix.Masked() || prefixes[k.Prefix] {
				bad("vrf %s: site %s: prefix %q: want an IPv4 network, once", v.Name, k.Site, k.Prefix)
			}
			prefixes[k.Prefix] = true
			if m := k.More; m.Count != 0 && (m.Count < 0 || !m.First.Addr().Is4() || m.First != m.First.Masked() || m.First.Bits() < 8 ||
				m.Count > 1<<(m.First.Bits()-8)) {
				bad("vrf %s: site %s: %s more prefixes: want IPv4 networks within a /8", v.Name, k.Site, m)
			}
			if k.Preference < 0 {
				bad("vrf %s: site %s: preference %d: want none below 0", v.Name, k.Site, k.Preference)
			}
			for _, rt := range []string{k.ExportRT, k.ImportRT} {
				if err := validateRT(rt); err != nil {
					bad("vrf %s: site %s: %w", v.Name, k.Site, err)
				}
			}
		}
	}
	return errs
}

// maxMTU is what the 16 bits of the Layer2 Info community can say; minMTU is
// IPv4's (RFC 791).
const (
	minMTU = 68
	maxMTU = 1<<16 - 1
	maxVE  = 1<<16 - 1
)

func (c *Config) validateVSIs() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	names, rds := map[string]bool{}, map[string]bool{}
	for _, v := range c.VRFs {
		names[v.Name], rds[v.RD] = true, true
	}
	for _, v := range c.VSIs {
		if v.Name == "" || len(v.Name) > maxDevice || names[v.Name] {
			bad("vsi %q: want the name of a bridge, once", v.Name)
		}
		names[v.Name] = true
		if _, err := bgp.ParseRouteDistinguisher(v.RD); err != nil || rds[v.RD] {
			bad("vsi %s: route distinguisher %q: want <asn>:<number>, once", v.Name, v.RD)
		}
		rds[v.RD] = true
		if v.VEID < 1 || v.VEID > maxVE {
			bad("vsi %s: VE ID %d: want 1..%d", v.Name, v.VEID, maxVE)
		}
		if v.BlockOffset < 1 || v.BlockSize < 1 || v.BlockOffset+v.BlockSize-1 > maxVE {
			bad("vsi %s: label block of %d VEs from VE %d on: want VEs 1..%d", v.Name, v.BlockSize, v.BlockOffset, maxVE)
		}
		if v.LabelBase < minLabel || v.LabelBase > maxLabel || int(v.LabelBase)+v.BlockSize-1 > maxLabel {
			bad("vsi %s: label block of %d from %d on: want labels %d..%d", v.Name, v.BlockSize, v.LabelBase, minLabel, maxLabel)
		}
		if v.MTU < minMTU || v.MTU > maxMTU {
			bad("vsi %s: MTU %d: want %d..%d", v.Name, v.MTU, minMTU, maxMTU)
		}
		for _, rt := range append(append([]string(nil), v.ExportRTs...), v.ImportRTs...) {
			if err := validateRT(rt); err != nil {
				bad("vsi %s: %w", v.Name, err)
			}
		}
		errs = append(errs, v.validateFlows()...)
	}
	return errs
}

// maxDevice is the longest name of an interface (IFNAMSIZ less the final zero).
const maxDevice = 15

func (v *VSI) validateFlows() (errs []error) {
	seen := map[string]bool{}
	for _, f := range v.Flows {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("vsi %s: flow %s: "+format, append([]any{v.Name, f.Name}, args...)...))
		}
		if f.Name == "" || seen[f.Name] {
			bad("want a name, once")
		}
		seen[f.Name] = true
		if !f.Egress.Is4() || !f.Via.Is4() || f.Dev == "" {
			bad("egress %q via %q dev %q: want addresses and a device", f.Egress, f.Via, f.Dev)
		}
		if len(f.Labels) < 1 || len(f.Labels) > len(fabric.Stack{}) {
			bad("%d labels: want 1..%d", len(f.Labels), len(fabric.Stack{}))
		}
		if err := f.Backup.validate(0); err != nil {
			bad("%w", err)
		}
		for _, label := range append([]uint32{f.In}, f.Labels...) {
			if label < minLabel || label > maxLabel {
				bad("label %d: want %d..%d", label, minLabel, maxLabel)
			}
		}
	}
	return errs
}

// validateLabels sees to it that each label has one meaning in this PE's
// incoming label map.
func (c *Config) validateLabels() (errs []error) {
	type span struct {
		first, last int
		what        string
	}
	var spans []span
	one := func(label uint32, what string) { spans = append(spans, span{int(label), int(label), what}) }
	for _, v := range c.VRFs {
		one(v.Label, "vrf "+v.Name)
	}
	for _, v := range c.VSIs {
		spans = append(spans, span{int(v.LabelBase), int(v.LabelBase) + v.BlockSize - 1, "vsi " + v.Name})
		for _, f := range v.Flows {
			one(f.In, "flow "+f.Name+" of vsi "+v.Name)
			if n := len(f.Labels); n > 0 {
				one(f.Labels[n-1], "flow "+f.Name+" of vsi "+v.Name)
			}
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int { return a.first - b.first })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; b.first <= a.last {
			errs = append(errs, fmt.Errorf("label %d: both %s and %s use it", b.first, a.what, b.what))
			spans[i].last = max(a.last, b.last)
		}
	}
	return errs
}

// validate says what is wrong with a backup for packets that have so many
// labels of their own below it, or nil; nil is a backup too.
func (b *Backup) validate(below int) error {
	if b == nil {
		return nil
	}
	if !b.Via.Is4() || b.Dev == "" || len(b.Labels)+below > len(fabric.Stack{}) {
		return fmt.Errorf("backup via %q dev %q with %d labels: want an address, a device, and at most %d labels",
			b.Via, b.Dev, len(b.Labels), len(fabric.Stack{})-below)
	}
	for _, label := range b.Labels {
		if label < minLabel || label > maxLabel {
			return fmt.Errorf("backup: label %d: want %d..%d", label, minLabel, maxLabel)
		}
	}
	return nil
}

func (c *Config) validateTunnels() (errs []error) {
	seen := map[netip.Addr]bool{}
	for _, t := range c.Tunnels {
		if err := t.Backup.validate(1); err != nil {
			errs = append(errs, fmt.Errorf("tunnel to %q: %w", t.Egress, err))
		}
		if !t.Egress.Is4() || !t.Via.Is4() || t.Dev == "" || seen[t.Egress] ||
			(t.Label != 0 && (t.Label < minLabel || t.Label > maxLabel)) {
			errs = append(errs, fmt.Errorf("tunnel to %q: via %q dev %q label %d: want addresses, a device and a label, once for each egress",
				t.Egress, t.Via, t.Dev, t.Label))
		}
		seen[t.Egress] = true
	}
	return errs
}

// validateRT accepts the one form of route target that the lab uses:
// <2-byte asn>:<4-byte number> (RFC 4360 section 4). GoBGP's own parser
// quietly cuts numbers that are too large.
func validateRT(rt string) error {
	parsed, err := bgp.ParseRouteTarget(rt)
	if err != nil || parsed.String() != rt {
		return fmt.Errorf("route target %q: want <asn>:<number>", rt)
	}
	if _, ok := parsed.(*bgp.TwoOctetAsSpecificExtended); !ok {
		return fmt.Errorf("route target %q: want a 2-byte asn", rt)
	}
	return nil
}

func (c *Config) keepalive() int { return orDefault(c.Keepalive, defaultKeepalive) }
func (c *Config) hold() int      { return orDefault(c.Hold, defaultHold) }
func (c *Config) port() int      { return orDefault(int(c.Port), defaultPort) }

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// importRTs is the union of what the circuits of v import.
func (v *VRF) importRTs() map[string]bool {
	m := make(map[string]bool, len(v.Circuits))
	for _, c := range v.Circuits {
		m[c.ImportRT] = true
	}
	return m
}

// importRTs is what v imports.
func (v *VSI) importRTs() map[string]bool {
	m := make(map[string]bool, len(v.ImportRTs))
	for _, rt := range v.ImportRTs {
		m[rt] = true
	}
	return m
}
