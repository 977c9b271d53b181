package topo

import (
	"strings"
	"testing"
)

func TestInterfaceNames(t *testing.T) {
	p := samples()["long-names.vpclab.yml"]
	for node, want := range map[string]string{
		"p1":                    "provider-edge-1 provider-edge-2 provider-tokio provider-edge-t to-vrf-acme rr",
		"vrf-acme":              "p1 provider-edge-t acme-1 acme-1-2 acme-2 long-vpc-na-1 long-vpc-na-2",
		"acme-1":                "to-vrf-acme",
		"san-francisco-west-h2": "up-acme acme-san-fran-2 acme-san-fran-4 acme-san-fran-6 acme-san-fran-8 acme-san-fra-10 acme-san-fra-12 up-long-vpc-na",
		"long-vpc-na-office-ce": "wan long-vpc-na-o-1 long-vpc-na-o-2",
	} {
		var got []string
		for _, l := range p.LinksOf(node) {
			end := l.A
			if end.Node != node {
				end = l.B
			}
			got = append(got, end.Ifname)
		}
		if joined := strings.Join(got, " "); !strings.HasPrefix(joined, want) {
			t.Errorf("%s has\n%s, want\n%s", node, joined, want)
		}
	}
}
