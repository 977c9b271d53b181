package frr

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpclab/vpclab/emu/bgp"
)

// What bgpd 8.4 prints, shortened.
const (
	vrfJSON = `{ "vrfId": 12, "vrfName": "vrf-red", "routes": {
 "10.0.1.0/24": [{"valid":true,"bestpath":true,"pathFrom":"external","network":"10.0.1.0/24","peerId":"(unspec)","nexthops":[{"ip":"10.0.1.1","afi":"ipv4","used":true}]}]
,"10.0.2.0/24": [{"pathFrom":"internal","nexthops":[{"ip":"10.255.0.9","used":true}]},{"valid":true,"bestpath":true,"nexthops":[{"ip":"10.255.0.2","afi":"ipv4","used":true}]}]
,"10.0.3.0/24": [{"pathFrom":"external","nexthops":[{"ip":"10.255.0.3","used":true}]}]
 }  }`
	vpnJSON = `{ "routes": {  "routeDistinguishers" : { "65000:1001" : { "10.0.1.0/24": [{"valid":true}]},
 "65000:2001" : { "10.0.1.0/24": [{"valid":true}], "10.0.0.0/24": [{}]} }  }  }`
	prefixJSON = `{
 "65000:1001":{"prefix":"10.0.1.0/24","paths":[{"sourced":true,"local":true,"bestpath":{"overall":true},
   "extendedCommunity":{"string":"RT:65000:1001 RT:65000:0"},"remoteLabel":20101,
   "nexthops":[{"ip":"10.0.1.1","used":true}],"peer":{"peerId":"0.0.0.0"}}]},
 "65000:1002":{"prefix":"10.0.1.0/24","paths":[{"valid":true,"extendedCommunity":{"string":"RT:65000:1001001"},"remoteLabel":20102,
   "nexthops":[{"ip":"10.255.0.2","used":true}],"peer":{"peerId":"10.255.2.1"}}]}}`
)

func TestParseAnswers(t *testing.T) {
	hops, err := parseVRF([]byte(vrfJSON))
	if err != nil || len(hops) != 2 || hops[netip.MustParsePrefix("10.0.2.0/24")] != netip.MustParseAddr("10.255.0.2") {
		t.Errorf("next hops: %v, %v", hops, err)
	}
	prefixes, err := parseVPNPrefixes([]byte(vpnJSON))
	if err != nil || len(prefixes) != 2 || prefixes[0].String() != "10.0.0.0/24" {
		t.Errorf("prefixes: %v, %v", prefixes, err)
	}
	prefix := netip.MustParsePrefix("10.0.1.0/24")
	got, err := parseVPN([]byte(prefixJSON), prefix)
	want := []bgp.RouteInfo{
		{RD: "65000:1001", Prefix: prefix, Label: 20101, NextHop: netip.MustParseAddr("10.0.1.1"), RTs: []string{"65000:1001", "65000:0"}, Best: true},
		{RD: "65000:1002", Prefix: prefix, Label: 20102, NextHop: netip.MustParseAddr("10.255.0.2"), RTs: []string{"65000:1001001"}, From: netip.MustParseAddr("10.255.2.1")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("paths: %s, %v", diff, err)
	}
	for _, parse := range []func([]byte) error{
		func(b []byte) error { _, err := parseVRF(b); return err },
		func(b []byte) error { _, err := parseVPNPrefixes(b); return err },
		func(b []byte) error { _, err := parseVPN(b, prefix); return err },
	} {
		if parse([]byte("% VRF is unknown")) == nil {
			t.Error("no error for what is not JSON")
		}
	}
}

func TestParseAdjacency(t *testing.T) {
	for line, want := range map[string]adjacency{
		"2026/11/26 06:35:27 BGP: [N9HHH-F8H1M] %ADJCHANGE: neighbor 10.255.2.1(exec) in vrf default Up":                          {netip.MustParseAddr("10.255.2.1"), true, ""},
		"2026/11/26 06:35:27 BGP: [HZN6M-XRM1G] %ADJCHANGE: neighbor 10.255.2.1(Unknown) in vrf default Down Peer closed session": {netip.MustParseAddr("10.255.2.1"), false, "Peer closed session"},
	} {
		if got, ok := parseAdjacency(line); !ok || got != want {
			t.Errorf("%s: got %+v %v", line, got, ok)
		}
	}
	if a, ok := parseAdjacency("BGP: [X] something else"); ok {
		t.Errorf("got %+v from a line of something else", a)
	}
}
