package scenarios

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
)

// firewall writes the baseline's rules: in each machine's own namespace a
// table with two chains, for what comes in and for what goes out, that drop
// whatever no rule accepts, and rules that accept the peers of the tenant. Two
// forms of it:
//
//   - rules: one rule a peer and direction, as with security groups that are
//     compiled to a list;
//   - sets: two rules that look the peer up in a set, and one element a peer:
//     the best that a firewall on each machine can do.
//
// The rules stand where a cloud puts them, at the machine's port of a virtual
// switch: the twin's address is on a bridge in its own namespace with the wire
// as the only other port, and the table is of nftables' bridge family. (The
// kernel that User Mode Linux brings has no other family.) That family sees
// ARP too, so each chain has one rule more that lets it pass; those two are
// not counted, since a table of the ip family would do without.
//
// A machine's rules are sent as one netlink batch.
type firewall struct {
	conns map[string]*nftables.Conn // by machine, each a socket in its namespace
	sets  bool
}

// openFirewalls opens a netlink socket in the namespace of every machine. It
// keeps the namespaces alive until closeAll.
func openFirewalls(enter traffic.Enter, machines []traffic.Endpoint) (map[string]*nftables.Conn, error) {
	conns := map[string]*nftables.Conn{}
	for _, m := range machines {
		err := enter(m.Name, func() (err error) {
			conns[m.Name], err = nftables.New(nftables.AsLasting())
			return err
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("firewall of %s: %w", m.Name, err), closeAll(conns))
		}
	}
	return conns, nil
}

func closeAll(conns map[string]*nftables.Conn) (err error) {
	for _, c := range conns {
		if c != nil {
			err = errors.Join(err, c.CloseLasting())
		}
	}
	return err
}

const (
	tableName   = "vpclab"
	setName     = "peers"
	rulesABatch = 128 // the kernel answers each rule; the answers must fit the socket's buffer
)

// The two directions: chain name, hook, and where the peer's address stands in
// the IPv4 header (RFC 791).
var directions = []struct {
	name   string
	hook   *nftables.ChainHook
	offset uint32
}{
	{"in", nftables.ChainHookInput, 12},
	{"out", nftables.ChainHookOutput, 16},
}

// objects are the table, its chains and the set, as the library wants them.
type objects struct {
	table  *nftables.Table
	chains []*nftables.Chain // as directions
	set    *nftables.Set
}

func newObjects() objects {
	o := objects{table: &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}}
	drop := nftables.ChainPolicyDrop
	for _, d := range directions {
		o.chains = append(o.chains, &nftables.Chain{
			Name: d.name, Table: o.table, Type: nftables.ChainTypeFilter, Hooknum: d.hook,
			Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
	}
	o.set = &nftables.Set{Table: o.table, Name: setName, KeyType: nftables.TypeIPAddr}
	return o
}

// in gives fn the connection to the machine's namespace and sends what fn has
// left in it.
func (f firewall) in(machine, doing string, fn func(c *nftables.Conn, o objects) error) error {
	c := f.conns[machine]
	if c == nil {
		return fmt.Errorf("firewall of %s: %s: no such machine", machine, doing)
	}
	err := fn(c, newObjects())
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("firewall of %s: %s: %w", machine, doing, err)
	}
	return nil
}

// shut drops everything at a machine: where each machine begins.
func (f firewall) shut(machine string) error {
	return f.in(machine, "drop everything", func(c *nftables.Conn, o objects) error {
		c.AddTable(o.table) // so that there is one to delete
		c.DelTable(o.table)
		c.AddTable(o.table)
		for _, ch := range o.chains {
			c.AddChain(ch)
			c.AddRule(&nftables.Rule{Table: o.table, Chain: ch, Exprs: append(etherType(unix.ETH_P_ARP), accept)})
		}
		return nil
	})
}

// admit writes the first rules of a machine that is shut: peers may talk to
// it. It returns how many rules and elements were written.
func (f firewall) admit(machine string, peers []netip.Addr) (written int, err error) {
	err = f.in(machine, fmt.Sprintf("admit %d peers", len(peers)), func(c *nftables.Conn, o objects) error {
		if f.sets {
			if err := c.AddSet(o.set, elements(peers...)); err != nil {
				return err
			}
			for i, d := range directions {
				c.AddRule(&nftables.Rule{Table: o.table, Chain: o.chains[i], Exprs: acceptSet(d.offset, o.set)})
			}
			written = len(peers) + len(directions)
			return nil
		}
		for i, d := range directions {
			for _, peer := range peers {
				c.AddRule(&nftables.Rule{Table: o.table, Chain: o.chains[i], Exprs: acceptPeer(d.offset, peer)})
				if written++; written%rulesABatch == 0 {
					if err := c.Flush(); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	return written, err
}

// add admits one peer more.
func (f firewall) add(machine string, peer netip.Addr) error {
	return f.in(machine, "admit "+peer.String(), func(c *nftables.Conn, o objects) error {
		if f.sets {
			return c.SetAddElements(o.set, elements(peer))
		}
		for i, d := range directions {
			c.AddRule(&nftables.Rule{Table: o.table, Chain: o.chains[i], Exprs: acceptPeer(d.offset, peer)})
		}
		return nil
	})
}

// change lets a peer keep its place under a new address: rules are replaced
// where they stand, an element gives way to another.
func (f firewall) change(machine string, was, is netip.Addr) error {
	return f.in(machine, fmt.Sprintf("change %s to %s", was, is), func(c *nftables.Conn, o objects) error {
		if f.sets {
			if err := c.SetDeleteElements(o.set, elements(was)); err != nil {
				return err
			}
			return c.SetAddElements(o.set, elements(is))
		}
		for i, d := range directions {
			rules, err := c.GetRules(o.table, o.chains[i])
			if err != nil {
				return err
			}
			for _, r := range rules {
				if peerOf(r) == was {
					c.ReplaceRule(&nftables.Rule{Table: o.table, Chain: o.chains[i], Handle: r.Handle, Exprs: acceptPeer(d.offset, is)})
				}
			}
		}
		return nil
	})
}

// read lists what the machine's kernel holds: rules by chain and handle, set
// elements by address, each with what it accepts.
func (f firewall) read(machine string) (entries, error) {
	found := entries{}
	err := f.in(machine, "read the rules", func(c *nftables.Conn, o objects) error {
		for i, d := range directions {
			rules, err := c.GetRules(o.table, o.chains[i])
			if err != nil {
				return err
			}
			for _, r := range rules {
				if passesARP(r) {
					continue
				}
				found[fmt.Sprintf("%s rule %s/%d", machine, d.name, r.Handle)] = peerOf(r).String()
			}
		}
		if !f.sets {
			return nil
		}
		els, err := c.GetSetElements(o.set)
		if err != nil {
			return err
		}
		for _, e := range els {
			a, _ := netip.AddrFromSlice(e.Key)
			found[fmt.Sprintf("%s element %s", machine, a)] = "accept"
		}
		return nil
	})
	return found, err
}

func elements(addrs ...netip.Addr) []nftables.SetElement {
	els := make([]nftables.SetElement, len(addrs))
	for i, a := range addrs {
		els[i].Key = a.AsSlice()
	}
	return els
}

var accept = &expr.Verdict{Kind: expr.VerdictAccept}

// etherType is `meta protocol TYPE`.
func etherType(t uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(t >> 8), byte(t)}},
	}
}

// acceptPeer is `ip saddr|daddr PEER accept`.
func acceptPeer(offset uint32, peer netip.Addr) []expr.Any {
	return append(etherType(unix.ETH_P_IP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: peer.AsSlice()},
		accept)
}

// acceptSet is `ip saddr|daddr @peers accept`.
func acceptSet(offset uint32, set *nftables.Set) []expr.Any {
	return append(etherType(unix.ETH_P_IP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		accept)
}

// passesARP tells the rule that shut puts into each chain.
func passesARP(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		if cmp, ok := e.(*expr.Cmp); ok && bytes.Equal(cmp.Data, []byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}) {
			return true
		}
	}
	return false
}

// peerOf is the address that a rule of acceptPeer accepts; the zero address
// for other rules.
func peerOf(r *nftables.Rule) netip.Addr {
	for _, e := range r.Exprs {
		if cmp, ok := e.(*expr.Cmp); ok && len(cmp.Data) == 4 {
			a, _ := netip.AddrFromSlice(bytes.Clone(cmp.Data))
			return a
		}
	}
	return netip.Addr{}
}
