package rtnl

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Rule says that IPv4 lookups use Table at preference Pref (ip-rule(8)).
type Rule struct {
	Pref  int
	Table int
}

func (r Rule) String() string { return fmt.Sprintf("rule pref %d table %d", r.Pref, r.Table) }

// Rule adds a rule marked ProtocolFabric; adding it twice is refused (EEXIST).
func (b *Batch) Rule(r Rule, opts ...Option) {
	b.begin("add", r, unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, opts)
	b.rule(r)
	b.u8(nl.FRA_PROTOCOL, ProtocolFabric)
	b.end()
}

// RuleDel removes the rule at that preference, whoever made it.
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
	b.body(msg.Serialize())
	b.u32(nl.FRA_PRIORITY, uint32(r.Pref))
	b.u32(nl.FRA_TABLE, uint32(r.Table))
}
