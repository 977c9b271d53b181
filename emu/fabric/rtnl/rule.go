package rtnl

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Rule says that IPv4 lookups use Table at preference Pref (ip-rule(8)). Zero
// From, To and Iif match everything.
type Rule struct {
	Pref     int
	Table    int
	From, To netip.Prefix
	Iif      string // interface by which the packet came in; need not be there
}

func (r Rule) String() string {
	s := fmt.Sprintf("rule pref %d", r.Pref)
	if r.From.IsValid() {
		s += fmt.Sprintf(" from %v", r.From)
	}
	if r.To.IsValid() {
		s += fmt.Sprintf(" to %v", r.To)
	}
	if r.Iif != "" {
		s += " iif " + r.Iif
	}
	return s + fmt.Sprintf(" table %d", r.Table)
}

// Rule adds a rule marked ProtocolFabric; adding it twice is refused (EEXIST).
func (b *Batch) Rule(r Rule, opts ...Option) {
	b.begin("add", r, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, opts)
	b.rule(r)
	b.u8(nl.FRA_PROTOCOL, ProtocolFabric)
	b.end()
}

// RuleDel removes the rule that says just that, whoever made it; zero From, To
// and Iif are not compared.
func (b *Batch) RuleDel(r Rule, opts ...Option) {
	b.begin("delete", r, unix.RTM_DELRULE, 0, opts)
	b.rule(r)
	b.end()
}

// rule writes a fib_rule_hdr, which has the layout of rtmsg; the action is in
// the place of the type.
func (b *Batch) rule(r Rule) {
	msg := nl.NewRtMsg()
	msg.Family = unix.AF_INET
	msg.Table = unix.RT_TABLE_UNSPEC
	if r.Table < 256 {
		msg.Table = uint8(r.Table)
	}
	msg.Protocol, msg.Scope = 0, 0
	msg.Type = nl.FR_ACT_TO_TBL
	if r.From.IsValid() {
		msg.Src_len = uint8(r.From.Bits())
	}
	if r.To.IsValid() {
		msg.Dst_len = uint8(r.To.Bits())
	}
	b.body(msg.Serialize())
	if r.From.IsValid() {
		b.addr(nl.FRA_SRC, r.From.Masked().Addr())
	}
	if r.To.IsValid() {
		b.addr(nl.FRA_DST, r.To.Masked().Addr())
	}
	if r.Iif != "" {
		b.str(nl.FRA_IIFNAME, r.Iif)
	}
	b.u32(nl.FRA_PRIORITY, uint32(r.Pref))
	b.u32(nl.FRA_TABLE, uint32(r.Table))
}
