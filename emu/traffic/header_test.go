package traffic

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"
)

func TestHeadersAsOnTheWire(t *testing.T) {
	b := AppendIPv4(nil, Protocol, netip.MustParseAddr("10.0.1.11"), netip.MustParseAddr("10.255.0.1"), 16)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if sum = sum&0xffff + sum>>16; sum != 0xffff {
		t.Errorf("the header's sum is %#x, want 0xffff (RFC 791): % x", sum, b)
	}
	if got, want := hex.EncodeToString(b[:10]), "450000240000000040fd"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b = AppendLabels(nil, 10302, 20202)
	if got, want := hex.EncodeToString(b), "0283e04004eea140"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	labels, rest, ok := Labels(append(b, 0x45))
	if !ok || !slices.Equal(labels, []uint32{10302, 20202}) || len(rest) != 1 {
		t.Errorf("read back %v, %x, %v", labels, rest, ok)
	}
	if _, _, ok := Labels(b[:6]); ok {
		t.Error("a stack that is cut was taken for a whole one")
	}
}
