package fidelity

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/traffic"
)

// labelled is a packet of a gun in a frame, under labels, in a pseudowire's
// frame if inner.
func labelled(inner bool, labels ...label) []byte {
	kind := uint16(0x8847)
	if len(labels) == 0 {
		kind = 0x0800
	}
	b := traffic.AppendEthernet(nil, [6]byte{2, 1}, [6]byte{2, 2}, kind)
	for i, l := range labels {
		e := l.Value<<12 | uint32(l.EXP)<<9 | uint32(l.TTL)
		if i == len(labels)-1 {
			e |= 1 << 8
		}
		b = binary.BigEndian.AppendUint32(b, e)
	}
	if inner {
		b = traffic.AppendEthernet(b, [6]byte{2, 3}, [6]byte{2, 4}, 0x0800)
	}
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 62, 17
	copy(ip[16:], []byte{10, 0, 0, 9})
	b = append(b, ip...)
	b = append(b, 0, 0, port>>8, port&0xff, 0, 16, 0, 0)
	b = binary.BigEndian.AppendUint32(b, magic)
	return binary.BigEndian.AppendUint32(b, 77)
}

func TestFramesAreRead(t *testing.T) {
	stack := []label{{Value: 10502, TTL: 62}, {Value: 20102, EXP: 5, TTL: 63}}
	for _, c := range []struct {
		name   string
		data   []byte
		labels string
	}{
		{"an IP packet", labelled(false), ""},
		{"a VPN packet", labelled(false, stack...), "10502 exp 0 ttl 62 / 20102 exp 5 ttl 63 s"},
		{"a frame of a pseudowire", labelled(true, stack[1]), "20102 exp 5 ttl 63 s"},
	} {
		s, ok := parse(c.data)
		require.True(t, ok, c.name)
		require.Equal(t, uint32(77), s.number, c.name)
		require.Equal(t, "10.0.0.9", s.dst.String(), c.name)
		require.Equal(t, c.labels, stackText(s.labels), c.name)
		for cut := range c.data {
			_, ok := parse(c.data[:cut])
			require.False(t, ok, "%s cut to %d bytes", c.name, cut)
		}
	}
}

func TestEchoRequestsAreSound(t *testing.T) {
	b := make([]byte, icmpHeader+markLen)
	echoRequest(b, 4711)
	require.Zero(t, checksum(b))
	_, ok := parse(append(labelled(false)[:34], b...)) // its protocol is UDP
	require.False(t, ok)
}

func FuzzParse(f *testing.F) {
	f.Add(labelled(false))
	f.Add(labelled(true, label{Value: 3, TTL: 1}))
	f.Fuzz(func(_ *testing.T, data []byte) { parse(data) })
}
