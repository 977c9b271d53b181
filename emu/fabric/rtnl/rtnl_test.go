package rtnl

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// only is the body of a batch's single message, without the netlink header.
func only(t *testing.T, b *Batch, typ int) []byte {
	t.Helper()
	require.Equal(t, 1, b.Len())
	require.Equal(t, len(b.buf), int(binary.NativeEndian.Uint32(b.buf)), "length in the header")
	require.Equal(t, typ, int(binary.NativeEndian.Uint16(b.buf[4:])))
	return b.buf[unix.SizeofNlMsghdr:]
}

func TestRouteWithLabelsReadsBack(t *testing.T) {
	want := Route{Table: 1001, Dst: netip.MustParsePrefix("10.2.0.0/16"), Via: netip.MustParseAddr("10.0.0.2"), DevIndex: 7,
		Src: netip.MustParseAddr("10.255.0.1"), Metric: math.MaxUint32, Labels: []uint32{16, 1048575, 3}, Protocol: ProtocolBGP}
	var b Batch
	b.RouteReplace(want)
	p := only(t, &b, unix.RTM_NEWROUTE)
	got := Route{Protocol: p[5], Dst: netip.PrefixFrom(netip.IPv4Unspecified(), int(p[1]))}
	attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { got.set(typ, v) })
	require.Equal(t, want, got)
	require.Equal(t, byte(unix.RT_TABLE_UNSPEC), p[4], "table 1001 does not fit a byte")
}

func TestStackIsRFC3032(t *testing.T) {
	require.Equal(t, []byte{0x00, 0x3e, 0x80, 0x00, 0x00, 0x7d, 0x11, 0x00}, Stack([]uint32{1000, 2001}))
}

func TestMPLSRouteReadsBack(t *testing.T) {
	for _, want := range []MPLSRoute{
		{In: 1000, Out: []uint32{2000, 3000}, Via: netip.MustParseAddr("10.0.0.2"), DevIndex: 3},
		{In: 1001, Via: netip.MustParseAddr("10.0.0.2"), DevIndex: 3, NoTTLPropagate: true},
		{In: 1002, DevIndex: 12},
	} {
		var b Batch
		b.MPLSReplace(want)
		p := only(t, &b, unix.RTM_NEWROUTE)
		require.Equal(t, []byte{unix.AF_MPLS, 20, 0, 0}, p[:4])
		require.Equal(t, byte(ProtocolFabric), p[5])
		var got MPLSRoute
		attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { got.set(typ, v) })
		require.Equal(t, want, got)
	}
}

func TestVethReadsBack(t *testing.T) {
	var b Batch
	b.Veth(Veth{Link: Link{Name: "eth0", Index: 12, MTU: 1600, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Group: 9}, Peer: Link{Name: "p1", Index: 30}, PeerNS: 5})
	p := only(t, &b, unix.RTM_NEWLINK)
	l, ok := parseLink(p)
	require.True(t, ok)
	require.Equal(t, LinkInfo{Index: 12, Name: "eth0", Kind: "veth", MTU: 1600, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Group: 9}, l)
	// The peer's description lies in LINKINFO > DATA > PEER, behind an
	// ifinfomsg of its own.
	var peer LinkInfo
	var ns uint32
	attrs(p, unix.SizeofIfInfomsg, func(typ uint16, v []byte) {
		if typ != unix.IFLA_LINKINFO {
			return
		}
		attrs(v, 0, func(typ uint16, v []byte) {
			if typ != nl.IFLA_INFO_DATA {
				return
			}
			attrs(v, 0, func(typ uint16, v []byte) {
				require.Equal(t, uint16(nl.VETH_INFO_PEER), typ)
				peer, _ = parseLink(v)
				attrs(v, unix.SizeofIfInfomsg, func(typ uint16, v []byte) {
					if typ == unix.IFLA_NET_NS_FD {
						ns = binary.NativeEndian.Uint32(v)
					}
				})
			})
		})
	})
	require.Equal(t, LinkInfo{Index: 30, Name: "p1"}, peer)
	require.Equal(t, uint32(5), ns)
}

func TestNetemReadsBack(t *testing.T) {
	for _, want := range []Netem{
		{Delay: 13500 * time.Microsecond, Jitter: time.Millisecond, Loss: math.MaxUint32 / 2, Limit: 1000, Rate: 465e6},
		{Limit: 1, Rate: 400e9},
	} {
		var b Batch
		b.Netem(Qdisc{DevIndex: 4, Parent: Root, Handle: MakeHandle(1, 0)}, want)
		var got Netem
		attrs(only(t, &b, unix.RTM_NEWQDISC), nl.SizeofTcMsg, func(typ uint16, v []byte) {
			if typ == nl.TCA_OPTIONS {
				got.decode(v)
			}
		})
		require.Equal(t, want, got)
	}
}

func TestFilterReadsBack(t *testing.T) {
	mac := func(n byte) [6]byte { return [6]byte{2, 0, 0, 0, 0, n} }
	for _, want := range []Filter{
		{Prio: 1, Handle: 7, Protocol: EtherAll, Actions: []Action{PushLabel{20103, 255}, PushEth{mac(1), mac(2)}, ToHost{}, Redirect{1, true}}},
		{Prio: 10, Handle: 2, Protocol: EtherMPLS, Flower: &Flower{Label: 1048575, Depth: 1, Bottom: true},
			Actions: []Action{PopEth{}, PopLabel{EtherTEB}, Redirect{1 << 20, false}}},
		{Prio: 65535, Handle: 1 << 31, Protocol: EtherMPLS, Flower: &Flower{Label: 16, Depth: 7}, Class: MakeHandle(0x10, 3)},
		{Prio: 3, Handle: 9, Protocol: EtherAll, Flower: &Flower{Dst: mac(3), Src: mac(4)}, Class: MakeHandle(1, 2)},
	} {
		var b Batch
		b.Filter(want)
		got, ok := parseFilter(only(t, &b, unix.RTM_NEWTFILTER))
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}

func TestFilterIsNamed(t *testing.T) {
	f := Filter{Block: 1, Prio: 10, Flower: &Flower{Label: 20103}}
	require.Equal(t, "filter prio 10 label 20103 of block 1", f.String())
	require.Equal(t, "filter 1 prio 2 at egress of pw3", Filter{Prio: 2, Handle: 1, Dev: "pw3", Parent: Egress}.String())
	require.Equal(t, "filter prio 1 at 10:0 of 17", Filter{Prio: 1, DevIndex: 17, Parent: MakeHandle(0x10, 0)}.String())
}

func TestAddressesOfABlock(t *testing.T) {
	var b Batch
	b.FilterDel(Filter{Block: 5, DevIndex: 9, Parent: Egress, Prio: 3, Protocol: EtherMPLS})
	msg := nl.DeserializeTcMsg(only(t, &b, unix.RTM_DELTFILTER))
	require.Equal(t, int32(-1), msg.Ifindex, "TCM_IFINDEX_MAGIC_BLOCK")
	require.Equal(t, uint32(5), msg.Parent)
	require.Equal(t, uint32(3<<16|0x4788), msg.Info, "EtherType in network order")
}

func TestBridgeTimesAreRoundedUp(t *testing.T) {
	require.Equal(t, uint32(30000), userTicks(300*time.Second))
	require.Equal(t, uint32(1), userTicks(time.Nanosecond), "0 would mean never to learn")
	require.Equal(t, uint32(math.MaxInt32), userTicks(math.MaxInt64))
}

func TestNormalTable(t *testing.T) {
	table := normalTable()
	var sum, squares float64
	n := len(table) / 2
	for i := range n {
		x := float64(int16(binary.NativeEndian.Uint16(table[2*i:]))) / 8192
		sum += x
		squares += x * x
	}
	require.InDelta(t, 0, sum/float64(n), 1e-3)
	require.InDelta(t, 1, squares/float64(n), 0.01)
}

func TestAckWithText(t *testing.T) {
	ack := func(flags uint16, original int, tail ...byte) (unix.Errno, string) {
		p := make([]byte, 4)
		errno := int32(-int(unix.EINVAL))
		binary.NativeEndian.PutUint32(p, uint32(errno))
		h := make([]byte, original)
		binary.NativeEndian.PutUint32(h, uint32(original))
		return parseAck(flags, append(append(p, h...), tail...))
	}
	text := append([]byte{12, 0, attrAckMsg, 0}, "no way\x00\x00"...)
	for _, c := range []struct {
		flags    uint16
		original int
		tail     []byte
		want     string
	}{
		{flagAckTLVs | flagCapped, 16, text, "no way"},
		{flagAckTLVs, 28, text, "no way"},
		{flagCapped, 16, nil, ""},
		{flagAckTLVs, 16, []byte{200, 0, 1, 0}, ""}, // cut short
	} {
		errno, got := ack(c.flags, c.original, c.tail...)
		require.Equal(t, unix.EINVAL, errno)
		require.Equal(t, c.want, got)
	}
	errno, _ := parseAck(0, []byte{1})
	require.Equal(t, unix.EPROTO, errno)
}

func TestChunksRespectBothLimits(t *testing.T) {
	var b Batch
	for range 300 {
		b.LinkSet(LinkChange{Index: 1})
	}
	require.Equal(t, maxChunkMsgs, b.chunk(0))
	require.Equal(t, 300, b.chunk(256))
	b.Reset()
	for range 40 {
		b.Netem(Qdisc{}, Netem{Jitter: 1}) // 8 KiB of table each
	}
	n := b.chunk(0)
	require.Less(t, n, 17)
	require.LessOrEqual(t, b.offset(n), maxChunkBytes)
}

func TestChunksEndAtCuts(t *testing.T) {
	var b Batch
	for range 40 {
		for range 9 {
			b.LinkSet(LinkChange{Index: 1})
		}
		b.Cut()
	}
	var ends []int
	for from := 0; from < b.Len(); from = ends[len(ends)-1] {
		ends = append(ends, b.chunk(from))
	}
	require.Equal(t, []int{14 * 9, 28 * 9, 40 * 9}, ends)
	b.Reset()
	b.Cut()
	for range 200 {
		b.LinkSet(LinkChange{Index: 1})
	}
	require.Equal(t, maxChunkMsgs, b.chunk(0), "one part that is too long is divided anywhere")
}

func TestErrorsAreReadable(t *testing.T) {
	err := join([]*Error{{Object: "set label 3000", Errno: unix.EINVAL, Text: "too large"}})
	require.EqualError(t, err, "set label 3000: invalid argument (too large)")
	require.ErrorIs(t, err, unix.EINVAL)
	var many []*Error
	for range 20 {
		many = append(many, &Error{Object: "x", Errno: unix.ENODEV})
	}
	require.ErrorContains(t, join(many), "and 12 more")
	require.NoError(t, join(nil))
	require.True(t, errors.Is(join(many), unix.ENODEV))
}

// FuzzParse: what the kernel says is trusted to be well-formed by nobody.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, p []byte) {
		_, _ = parseLink(p)
		_, _ = parseAck(flagAckTLVs, p)
		var r Route
		var m MPLSRoute
		var n Netem
		var k ClassInfo
		n.decode(p)
		k.htb(p)
		k.hfsc(p)
		attrs(p, unix.SizeofRtMsg, func(typ uint16, v []byte) { r.set(typ, v); m.set(typ, v) })
		_, _ = parseFilter(p)
		_, _ = parseFDB(p)
		parseActions(p)
	})
}
