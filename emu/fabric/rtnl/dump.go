package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// LinkInfo is an interface as the kernel has it.
type LinkInfo struct {
	Index  int
	Name   string
	Kind   string // veth, bridge, vrf …; "" for lo
	MAC    [6]byte
	MTU    int
	Master int
	Peer   int // veth: index of the other end, in its namespace
	Up     bool
	// Carrier says that something is at the other end: it is up, and so is that.
	Carrier bool
	Deaf    bool // see Batch.Deafen
	Alias   string
	Group   uint32
	Table   int // vrf
	// Ageing of learned addresses; bridge.
	Ageing time.Duration
	// MasterKind is bridge, vrf …; Port and Isolated count at a bridge's ports.
	MasterKind string
	Port       PortState
	Isolated   bool
}

// AddrInfo is an IPv4 address of an interface.
type AddrInfo struct {
	Index  int
	Prefix netip.Prefix
}

// QdiscInfo is a queueing discipline; the options of those that this package
// makes are decoded.
type QdiscInfo struct {
	Index  int
	Kind   string
	Handle Handle
	Parent Handle
	Netem  Netem
	Limit  int    // bfifo: bytes
	Block  uint32 // clsact: shared filter block of what comes in; 0: none
	// Default is the class of what no filter matches (hfsc, minor number).
	Default uint16
}

// ClassInfo is a class of an HTB or HFSC qdisc.
type ClassInfo struct {
	Index  int
	Kind   string
	Handle Handle
	Parent Handle
	Rate   uint64 // bits a second: rate or real-time curve; 0: none
	Share  uint64 // hfsc: link-share curve
	Ceil   uint64 // ceil or upper-limit curve
	Bytes  uint64 // sent
	Drops  uint64 // packets
	Queued int    // bytes
}

// RuleInfo is an IPv4 policy rule.
type RuleInfo struct {
	Rule
	Protocol uint8
}

// dumpAttempts bounds how often a table is read again because it changed
// while it was read.
const dumpAttempts = 10

var errInterrupted = errors.New("the table changed while it was read")

// dump asks for a whole table and hands out each entry. Entries that were
// handed out before an interruption are handed out again after restart.
func (c *Conn) dump(what string, typ int, body []byte, restart func(), each func(payload []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpAttempts {
		restart()
		err := c.dumpOnce(typ, body, each)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errInterrupted) {
			return fmt.Errorf("read %s: %w", what, err)
		}
	}
	return fmt.Errorf("read %s: %w each of %d times", what, errInterrupted, dumpAttempts)
}

func (c *Conn) dumpOnce(typ int, body []byte, each func(payload []byte)) error {
	if c.fd < 0 {
		return errors.New("netlink socket is closed")
	}
	c.seq++
	var b Batch
	b.begin("read", nil, typ, unix.NLM_F_DUMP, nil)
	b.body(body)
	b.end()
	binary.NativeEndian.PutUint32(b.buf[8:], c.seq)
	if _, err := direct.Write(c.fd, b.buf); err != nil {
		return err
	}
	want, done, interrupted := c.seq, false, false
	var refused unix.Errno
	for !done {
		err := c.receive(func(seq uint32, typ, flags uint16, payload []byte) {
			if seq != want {
				return
			}
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch typ {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				refused, _ = parseAck(flags, payload)
				done = true
			default:
				each(payload)
			}
		})
		if err != nil {
			return err
		}
	}
	if refused != 0 {
		return refused
	}
	if interrupted {
		return errInterrupted
	}
	return nil
}

// attrs calls each for every attribute behind the fixed header of size skip.
func attrs(payload []byte, skip int, each func(typ uint16, v []byte)) {
	if len(payload) < skip {
		return
	}
	p := payload[skip:]
	for len(p) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(p))
		if n < unix.SizeofRtAttr || n > len(p) {
			return
		}
		each(binary.NativeEndian.Uint16(p[2:])&^unix.NLA_F_NESTED, p[unix.SizeofRtAttr:n])
		p = p[min((n+3)&^3, len(p)):]
	}
}

// cstring is a zero-terminated string.
func cstring(v []byte) string { return strings.TrimRight(string(v), "\x00") }

func number(v []byte) int {
	switch len(v) {
	case 1:
		return int(v[0])
	case 2:
		return int(binary.NativeEndian.Uint16(v))
	case 4:
		return int(binary.NativeEndian.Uint32(v))
	case 8:
		return int(binary.NativeEndian.Uint64(v))
	}
	return 0
}

// Links reads all interfaces of the namespace.
func (c *Conn) Links() ([]LinkInfo, error) { return c.links("interfaces", 0) }

// Ports reads the interfaces whose master has that index.
func (c *Conn) Ports(master int) ([]LinkInfo, error) {
	return c.links(fmt.Sprintf("ports of interface %d", master), master)
}

func (c *Conn) links(what string, master int) (out []LinkInfo, err error) {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize()
	if master != 0 {
		body = append(body, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))).Serialize()...)
	}
	err = c.dump(what, unix.RTM_GETLINK, body, func() { out = out[:0] }, func(p []byte) {
		if l, ok := parseLink(p); ok {
			out = append(out, l)
		}
	})
	return out, err
}

func parseLink(p []byte) (l LinkInfo, ok bool) {
	if len(p) < unix.SizeofIfInfomsg {
		return l, false
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(p[4:])))
	flags := binary.NativeEndian.Uint32(p[8:])
	l.Up, l.Carrier = flags&unix.IFF_UP != 0, flags&unix.IFF_LOWER_UP != 0
	attrs(p, unix.SizeofIfInfomsg, func(typ uint16, v []byte) { l.set(typ, v) })
	if p[0] == unix.AF_BRIDGE { // a port's state, in the form that bridges notify it
		l.MasterKind = "bridge"
	}
	return l, true
}

func (l *LinkInfo) set(typ uint16, v []byte) {
	switch typ {
	case unix.IFLA_IFNAME:
		l.Name = cstring(v)
	case unix.IFLA_IFALIAS:
		l.Alias = cstring(v)
	case unix.IFLA_GROUP:
		l.Group = uint32(number(v))
	case unix.IFLA_MTU:
		l.MTU = number(v)
	case unix.IFLA_MASTER:
		l.Master = number(v)
	case unix.IFLA_LINK:
		l.Peer = number(v)
	case unix.IFLA_ADDRESS:
		copy(l.MAC[:], v)
	case unix.IFLA_LINKINFO:
		attrs(v, 0, l.setInfo)
	case unix.IFLA_XDP:
		attrs(v, 0, l.setXDP)
	case unix.IFLA_PROTINFO:
		attrs(v, 0, l.setPort)
	}
}

// setInfo takes what is special to the interface's kind, and to the kind of
// its master.
func (l *LinkInfo) setInfo(typ uint16, v []byte) {
	switch typ {
	case nl.IFLA_INFO_KIND:
		l.Kind = cstring(v)
	case nl.IFLA_INFO_DATA:
		attrs(v, 0, func(typ uint16, v []byte) {
			switch {
			case l.Kind == "vrf" && typ == nl.IFLA_VRF_TABLE:
				l.Table = number(v)
			case l.Kind == "bridge" && typ == nl.IFLA_BR_AGEING_TIME:
				l.Ageing = time.Duration(number(v)) * userTick
			}
		})
	case nl.IFLA_INFO_SLAVE_KIND:
		l.MasterKind = cstring(v)
	case nl.IFLA_INFO_SLAVE_DATA:
		if l.MasterKind == "bridge" {
			attrs(v, 0, l.setPort)
		}
	}
}

func (l *LinkInfo) setPort(typ uint16, v []byte) {
	switch typ {
	case nl.IFLA_BRPORT_STATE:
		l.Port = PortState(number(v))
	case nl.IFLA_BRPORT_ISOLATED:
		l.Isolated = number(v) == 1
	}
}

// Addrs reads the IPv4 addresses of the namespace.
func (c *Conn) Addrs() (out []AddrInfo, err error) {
	body := nl.NewIfAddrmsg(unix.AF_INET).Serialize()
	err = c.dump("addresses", unix.RTM_GETADDR, body, func() { out = out[:0] }, func(p []byte) {
		if len(p) < unix.SizeofIfAddrmsg {
			return
		}
		a := AddrInfo{Index: int(binary.NativeEndian.Uint32(p[4:]))}
		attrs(p, unix.SizeofIfAddrmsg, func(typ uint16, v []byte) {
			if ip, ok := netip.AddrFromSlice(v); ok && typ == unix.IFA_LOCAL {
				a.Prefix = netip.PrefixFrom(ip, int(p[1]))
			}
		})
		out = append(out, a)
	})
	return out, err
}

// Routes reads the IPv4 routes of all tables that carry protocol; 0: all, but
// for those of broadcast and multicast addresses.
func (c *Conn) Routes(protocol uint8) (out []Route, err error) {
	body := (&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}}).Serialize()
	err = c.dump("routes", unix.RTM_GETROUTE, body, func() { out = out[:0] }, func(p []byte) {
		if len(p) < unix.SizeofRtMsg || (protocol != 0 && p[5] != protocol) || p[7] == unix.RTN_BROADCAST || p[7] == unix.RTN_MULTICAST {
			return
		}
		r := Route{Protocol: p[5], Table: int(p[4]), Unreachable: p[7] == unix.RTN_UNREACHABLE, Local: p[7] == unix.RTN_LOCAL}
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), int(p[1]))
		attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { r.set(typ, v) })
		out = append(out, r)
	})
	return out, err
}

func (r *Route) set(typ uint16, v []byte) {
	ip, _ := netip.AddrFromSlice(v)
	switch typ {
	case unix.RTA_TABLE:
		r.Table = number(v)
	case unix.RTA_DST:
		r.Dst = netip.PrefixFrom(ip, r.Dst.Bits())
	case unix.RTA_GATEWAY:
		r.Via = ip
	case unix.RTA_OIF:
		r.DevIndex = number(v)
	case unix.RTA_PREFSRC:
		r.Src = ip
	case unix.RTA_PRIORITY:
		r.Metric = number(v)
	case rtaNexthop:
		r.Nexthop = uint32(number(v))
	case unix.RTA_ENCAP:
		attrs(v, 0, func(typ uint16, v []byte) {
			if typ == nl.MPLS_IPTUNNEL_DST {
				r.Labels = labels(v)
			}
		})
	}
}

func labels(v []byte) (out []uint32) {
	for _, l := range nl.DecodeMPLSStack(v) {
		out = append(out, uint32(l))
	}
	return out
}

// MPLSRoutes reads the incoming label map: the entries that carry protocol;
// 0: any. Without the kernel's mpls_router there are none.
func (c *Conn) MPLSRoutes(protocol uint8) (out []MPLSRoute, err error) {
	body := (&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_MPLS}}).Serialize()
	err = c.dump("labels", unix.RTM_GETROUTE, body, func() { out = out[:0] }, func(p []byte) {
		// A kernel without MPLS answers for all families it has.
		if len(p) < unix.SizeofRtMsg || p[0] != unix.AF_MPLS || protocol != 0 && p[5] != protocol {
			return
		}
		r := MPLSRoute{Protocol: p[5]}
		attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { r.set(typ, v) })
		out = append(out, r)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return out, err
}

func (r *MPLSRoute) set(typ uint16, v []byte) {
	switch typ {
	case unix.RTA_DST:
		if l := labels(v); len(l) == 1 {
			r.In = l[0]
		}
	case unix.RTA_NEWDST:
		r.Out = labels(v)
	case unix.RTA_VIA:
		if len(v) > 2 {
			r.Via, _ = netip.AddrFromSlice(v[2:])
		}
	case unix.RTA_OIF:
		r.DevIndex = number(v)
	case rtaTTLPropagate:
		r.NoTTLPropagate = number(v) == 0
	}
}

// Rules reads the IPv4 policy rules.
func (c *Conn) Rules() (out []RuleInfo, err error) {
	body := (&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}}).Serialize()
	err = c.dump("rules", unix.RTM_GETRULE, body, func() { out = out[:0] }, func(p []byte) {
		if len(p) < unix.SizeofRtMsg {
			return
		}
		r := RuleInfo{Rule: Rule{Table: int(p[4])}}
		attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { r.set(typ, v, int(p[1]), int(p[2])) })
		out = append(out, r)
	})
	return out, err
}

// set takes an attribute; dst and src are the lengths of the prefixes, which
// are in the header.
func (r *RuleInfo) set(typ uint16, v []byte, dst, src int) {
	ip, _ := netip.AddrFromSlice(v)
	switch typ {
	case nl.FRA_PRIORITY:
		r.Pref = number(v)
	case nl.FRA_TABLE:
		r.Table = number(v)
	case nl.FRA_PROTOCOL:
		r.Protocol = uint8(number(v))
	case nl.FRA_SRC:
		r.From = netip.PrefixFrom(ip, src)
	case nl.FRA_DST:
		r.To = netip.PrefixFrom(ip, dst)
	case nl.FRA_IIFNAME:
		r.Iif = cstring(v)
	}
}

// Qdiscs reads the queueing disciplines of all interfaces.
func (c *Conn) Qdiscs() (out []QdiscInfo, err error) {
	err = c.dump("qdiscs", unix.RTM_GETQDISC, new(nl.TcMsg).Serialize(), func() { out = out[:0] }, func(p []byte) {
		if len(p) < nl.SizeofTcMsg {
			return
		}
		msg := nl.DeserializeTcMsg(p)
		q := QdiscInfo{Index: int(msg.Ifindex), Handle: Handle(msg.Handle), Parent: Handle(msg.Parent)}
		attrs(p, nl.SizeofTcMsg, func(typ uint16, v []byte) {
			switch {
			case typ == nl.TCA_KIND:
				q.Kind = cstring(v)
			case typ == nl.TCA_INGRESS_BLOCK:
				q.Block = uint32(number(v))
			case typ == nl.TCA_OPTIONS && q.Kind == "netem":
				q.Netem.decode(v)
			case typ == nl.TCA_OPTIONS && q.Kind == "bfifo":
				q.Limit = number(v)
			case typ == nl.TCA_OPTIONS && q.Kind == "hfsc" && len(v) >= 2:
				q.Default = uint16(number(v[:2]))
			}
		})
		out = append(out, q)
	})
	return out, err
}

func (n *Netem) decode(v []byte) {
	if len(v) < nl.SizeofTcNetemQopt {
		return
	}
	qopt := nl.DeserializeTcNetemQopt(v)
	n.Limit = qopt.Limit
	n.Loss = qopt.Loss
	attrs(v, nl.SizeofTcNetemQopt, func(typ uint16, v []byte) {
		switch {
		case typ == netemLatency64:
			n.Delay = time.Duration(number(v))
		case typ == netemJitter64:
			n.Jitter = time.Duration(number(v))
		case typ == nl.TCA_NETEM_RATE && len(v) >= 4 && n.Rate == 0:
			n.Rate = uint64(binary.NativeEndian.Uint32(v)) * 8
		case typ == nl.TCA_NETEM_RATE64:
			n.Rate = uint64(number(v)) * 8
		}
	})
}

// Classes reads the HTB and HFSC classes of one interface.
func (c *Conn) Classes(devIndex int) (out []ClassInfo, err error) {
	body := (&nl.TcMsg{Ifindex: int32(devIndex)}).Serialize()
	err = c.dump("classes", unix.RTM_GETTCLASS, body, func() { out = out[:0] }, func(p []byte) {
		if len(p) < nl.SizeofTcMsg {
			return
		}
		msg := nl.DeserializeTcMsg(p)
		k := ClassInfo{Index: int(msg.Ifindex), Handle: Handle(msg.Handle), Parent: Handle(msg.Parent)}
		attrs(p, nl.SizeofTcMsg, func(typ uint16, v []byte) {
			switch {
			case typ == nl.TCA_KIND:
				k.Kind = cstring(v)
			case typ == nl.TCA_OPTIONS && k.Kind == "htb":
				k.htb(v)
			case typ == nl.TCA_OPTIONS && k.Kind == "hfsc":
				k.hfsc(v)
			case typ == nl.TCA_STATS2:
				attrs(v, 0, k.count)
			}
		})
		out = append(out, k)
	})
	return out, err
}

func (k *ClassInfo) htb(v []byte) {
	attrs(v, 0, func(typ uint16, v []byte) {
		switch {
		case typ == nl.TCA_HTB_PARMS && len(v) >= nl.SizeofTcHtbCopt:
			opt := nl.DeserializeTcHtbCopt(v)
			k.Rate = max(k.Rate, uint64(opt.Rate.Rate)*8)
			k.Ceil = max(k.Ceil, uint64(opt.Ceil.Rate)*8)
		case typ == nl.TCA_HTB_RATE64:
			k.Rate = uint64(number(v)) * 8
		case typ == nl.TCA_HTB_CEIL64:
			k.Ceil = uint64(number(v)) * 8
		}
	})
}

func (k *ClassInfo) hfsc(v []byte) {
	attrs(v, 0, func(typ uint16, v []byte) {
		if len(v) < 12 {
			return
		}
		rate := uint64(number(v[8:12])) * 8
		switch typ {
		case nl.TCA_HFSC_RSC:
			k.Rate = rate
		case nl.TCA_HFSC_FSC:
			k.Share = rate
		case nl.TCA_HFSC_USC:
			k.Ceil = rate
		}
	})
}

// Attributes and layout of linux/gen_stats.h.
const (
	statsBasic = 1 // bytes u64, packets u32
	statsQueue = 3 // packets, bytes, drops … u32
)

func (k *ClassInfo) count(typ uint16, v []byte) {
	switch {
	case typ == statsBasic && len(v) >= 8:
		k.Bytes = uint64(number(v[:8]))
	case typ == statsQueue && len(v) >= 12:
		k.Queued, k.Drops = number(v[4:8]), uint64(number(v[8:12]))
	}
}
