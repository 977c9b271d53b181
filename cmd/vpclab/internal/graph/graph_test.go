package graph

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/topo"
)

const small = `
name: small
topology:
  backbone:
    pe: [pe-tx, pe-il, pe-ca]
    p: [p1]
    links:
      - {between: [pe-tx, p1], rate: 465mbit, delay: 6.7ms}
      - {between: [pe-il, p1], rate: 465mbit, delay: 6.7ms}
      - {between: [pe-ca, p1], rate: 1gbit, delay: 10ms, backward: {rate: 100mbit, delay: 20ms}}
  sites:
    texas:    {kind: cloud, pe: pe-tx, hosts: 2, machines: 2}
    illinois: {kind: cloud, pe: pe-il, hosts: 2, machines: 1}
    acme-hq:  {kind: enterprise, pe: pe-ca, machines: 3, access: {rate: 10mbit}}
vpcs:
  acme:   {service: l3vpn, sites: [texas, illinois, acme-hq]}
  globex: {service: l3vpn, subnets: {texas: 10.0.0.0/24, acme-hq: 10.0.1.0/24}}
`

const large = `
name: large
generate: {backbone: ring, pe: 8, p: 4, sites: 8, tenants: 20, machines: 2, link: {rate: 1gbit, delay: 2ms}}
`

const plain = `
name: plain
topology:
  nodes: {a: {}, r: {forward: true}, b: {}}
  links:
    - {endpoints: ["a:eth1", "r:eth1"], ipv4: [10.0.0.1/24, 10.0.0.2/24], delay: 5ms}
    - {endpoints: ["r:eth2", "b:eth1"], ipv4: [10.0.1.1/24, 10.0.1.2/24]}
`

func planOf(t *testing.T, text string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("x.vpclab.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func render(t *testing.T, f func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEveryFormatNamesEveryBoxAndLabel(t *testing.T) {
	g := Of(planOf(t, small))
	for name, text := range map[string]string{"dot": render(t, g.DOT), "mermaid": render(t, g.Mermaid), "svg": render(t, g.SVG)} {
		for _, want := range []string{"pe-tx", "p1", "rr", "texas", "acme-hq", "globex", "10.0.1.0/24", "3 machines", "465mbit 6.7ms", "10mbit", "cloud, 2 hosts", "100mbit 20ms"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", name, want, text)
			}
		}
		if strings.Contains(text, "acme-hq-1") {
			t.Errorf("%s draws single machines", name)
		}
	}
}

func TestSVGIsWellFormedAndBoxesDoNotOverlap(t *testing.T) {
	for name, text := range map[string]string{"small": small, "large": large, "plain": plain} {
		g := Of(planOf(t, text))
		svg := render(t, g.SVG)
		if dir := os.Getenv("VPCLAB_GRAPH_OUT"); dir != "" { // for looking at
			if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(svg), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		l := g.place()
		if want := len(g.Routers) + len(g.Sites) + len(g.Plain); len(l.boxes) != want {
			t.Errorf("%s: %d boxes are placed, want %d", name, len(l.boxes), want)
		}
		for a, x := range l.boxes {
			if x.x-x.w/2 < 0 || x.y-x.h/2 < titleHeight || x.x+x.w/2 > l.width || x.y+x.h/2 > l.height {
				t.Errorf("%s: %s lies outside of the picture: %+v in %v×%v", name, a, x, l.width, l.height)
			}
			for b, y := range l.boxes {
				if a < b && x.overlaps(y) {
					t.Errorf("%s: %s and %s overlap", name, a, b)
				}
			}
		}
	}
}

func (b box) overlaps(c box) bool {
	return b.x-b.w/2 < c.x+c.w/2 && c.x-c.w/2 < b.x+b.w/2 && b.y-b.h/2 < c.y+c.h/2 && c.y-c.h/2 < b.y+b.h/2
}
