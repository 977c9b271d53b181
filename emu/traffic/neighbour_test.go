package traffic

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/vpclab/vpclab/topo"
)

func TestSolicitationAsOnTheWire(t *testing.T) {
	mac := topo.MAC{2, 0, 1, 1, 0, 1}
	if got, want := LinkLocal(mac).String(), "fe80::1ff:fe01:1"; got != want {
		t.Errorf("link-local address %s, want %s", got, want)
	}
	b := appendSolicitation(nil, mac, LinkLocal(topo.MAC{2, 0, 1, 2, 0, 1}))
	if got, want := hex.EncodeToString(b[:14]), "3333ff020001"+"020001010001"+"86dd"; got != want {
		t.Errorf("Ethernet header %s, want %s", got, want)
	}
	// The sum over pseudo-header and message, its checksum included, is all ones.
	if got := icmp6Sum([16]byte(b[22:]), [16]byte(b[38:]), b[54:]); got != 0 {
		t.Errorf("the checksum leaves %#x, want 0", got)
	}
}

func TestAnswersAreReadAndNothingElse(t *testing.T) {
	mac, told := topo.MAC{2, 0, 1, 2, 0, 1}, topo.MAC{2, 0, 1, 1, 0, 1}
	reply, _ := hex.DecodeString("020001010001" + "020001020001" + "0806" + "0001080006040002" + "020001020001" + "0a01020b" + "020001010001" + "0a01010b")
	addr, by, to, ok := answer(reply)
	if !ok || addr != netip.MustParseAddr("10.1.2.11") || by != mac || to != told {
		t.Errorf("ARP reply read as %v at %v to %v, %v", addr, by, to, ok)
	}
	advert, _ := hex.DecodeString("020001010001" + "020001020001" + "86dd" + "6000000000203aff" + "fe80000000000000000001fffe020001" + "fe80000000000000000001fffe010001" +
		"8800000060000000" + "fe80000000000000000001fffe020001" + "0201" + "020001020001")
	if addr, by, to, ok = answer(advert); !ok || addr != LinkLocal(mac) || by != mac || to != told {
		t.Errorf("advertisement read as %v at %v to %v, %v", addr, by, to, ok)
	}
	for n := range advert {
		if _, _, _, ok := answer(advert[:n]); ok {
			t.Errorf("%d bytes of an advertisement were taken for one", n)
		}
	}
	if _, _, _, ok := answer(appendARP(nil, mac, netip.MustParseAddr("10.1.2.11"), netip.MustParseAddr("10.1.1.11"))); ok {
		t.Error("a request was taken for an answer")
	}
}
