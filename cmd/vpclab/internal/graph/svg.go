package graph

import (
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// palette colours VPCs; the first eight are told apart by colour-blind readers
// too (after Okabe and Ito).
var palette = []string{"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#555555"}

const svgStyle = `
  text { font-family: "DejaVu Sans", "Helvetica Neue", Arial, sans-serif; font-size: 12px; fill: #1d2733 }
  .title { font-size: 17px; font-weight: bold }
  .name { font-weight: bold; text-anchor: middle }
  .small { font-size: 10px; fill: #5a6673 }
  .mid { text-anchor: middle }
  .label { font-size: 10px; fill: #33414f; text-anchor: middle }
  .core { stroke: #55708c; stroke-width: 2.4 }
  .access { stroke: #9aa7b4; stroke-width: 1.4 }
  .pe { fill: #e3eefb; stroke: #2f6db3; stroke-width: 1.6 }
  .p { fill: #eef1f4; stroke: #55708c; stroke-width: 1.6 }
  .rr { fill: #fff4dc; stroke: #c28a12; stroke-width: 1.6 }
  .node { fill: #f6f7f9; stroke: #8794a1; stroke-width: 1.2 }
  .site { fill: #fbfcfd; stroke: #b7c1cb; stroke-width: 1.2 }
  .cloud { stroke: #7f9cc0; stroke-width: 1.6; stroke-dasharray: 5 3 }
`

// SVG writes the graph as a picture.
func (g *Graph) SVG(w io.Writer) error {
	l := g.place()
	d := &drawing{layout: l}
	fmt.Fprintf(&d.b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f">`, l.width, l.height, l.width, l.height)
	fmt.Fprintf(&d.b, "\n<style>%s</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", svgStyle)
	d.text(margin, margin+10, "title", g.Title)
	for _, e := range g.Edges {
		d.line(e)
	}
	for _, e := range g.Edges {
		d.label(e)
	}
	for _, r := range g.Routers {
		d.router(r)
	}
	for _, n := range g.Plain {
		b := l.boxes[n]
		d.rect(b, "node", 6)
		d.text(b.x, b.y+4, "name", n)
	}
	colours := map[string]string{}
	for i, v := range g.VPCs {
		colours[v] = colourOf(i, v)
	}
	for _, s := range g.Sites {
		d.site(s, colours)
	}
	d.b.WriteString("</svg>\n")
	_, err := io.WriteString(w, d.b.String())
	return err
}

// colourOf gives the first VPCs the palette and later ones a hue of their name.
func colourOf(i int, name string) string {
	if i < len(palette) {
		return palette[i]
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("hsl(%d,45%%,45%%)", h.Sum32()%360)
}

// drawing is an SVG being written.
type drawing struct {
	layout *layout
	b      strings.Builder
}

func (d *drawing) text(x, y float64, class, s string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" class="%s">`, x, y, class)
	_ = xml.EscapeText(&d.b, []byte(s)) // a strings.Builder does not fail
	d.b.WriteString("</text>\n")
}

func (d *drawing) rect(b box, class string, round float64) {
	fmt.Fprintf(&d.b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"%.0f\" class=\"%s\"/>\n", b.x-b.w/2, b.y-b.h/2, b.w, b.h, round, class)
}

func (d *drawing) router(r Router) {
	b := d.layout.boxes[r.Name]
	switch r.Kind {
	case topo.KindPE:
		d.rect(b, "pe", 5)
	case topo.KindP:
		d.rect(b, "p", b.h/2)
	default:
		cut := 12.0
		fmt.Fprintf(&d.b, "<polygon class=\"rr\" points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f\"/>\n",
			b.x-b.w/2, b.y, b.x-b.w/2+cut, b.y-b.h/2, b.x+b.w/2-cut, b.y-b.h/2, b.x+b.w/2, b.y, b.x+b.w/2-cut, b.y+b.h/2, b.x-b.w/2+cut, b.y+b.h/2)
	}
	d.text(b.x, b.y-2, "name", r.Name)
	d.text(b.x, b.y+12, "small mid", r.Loopback)
}

func (d *drawing) site(s Site, colours map[string]string) {
	b := d.layout.boxes[siteID(s.Name)]
	class := "site"
	if s.Cloud {
		class += " cloud"
	}
	d.rect(b, class, 8)
	left, top := b.x-b.w/2+12, b.y-b.h/2
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" font-weight="bold">`, left, top+18)
	_ = xml.EscapeText(&d.b, []byte(s.Name))
	d.b.WriteString("</text>\n")
	d.text(left, top+31, "small", s.text())
	for i, m := range s.Members {
		y := top + siteHead + float64(i)*memberHeight + 11
		if i == maxMembers {
			d.text(left+16, y, "small", fmt.Sprintf("and %d more VPCs", len(s.Members)-i))
			break
		}
		fill := colours[m.VPC]
		if !m.Joined {
			fill = "#fff"
		}
		fmt.Fprintf(&d.b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\" rx=\"2\" fill=\"%s\" stroke=\"%s\"/>\n", left, y-8, fill, colours[m.VPC])
		fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f">`, left+16, y)
		_ = xml.EscapeText(&d.b, []byte(m.VPC))
		d.b.WriteString(` <tspan class="small">`)
		_ = xml.EscapeText(&d.b, []byte(m.text()))
		d.b.WriteString("</tspan></text>\n")
	}
}

// ends are the two points of a line: at the facing borders of a site and its
// PE, at the centres of routers, whose boxes cover what is too much.
func (d *drawing) ends(e Edge) (x1, y1, x2, y2 float64) {
	a, b := d.layout.boxes[e.A], d.layout.boxes[e.B]
	x1, y1, x2, y2 = a.x, a.y, b.x, b.y
	if strings.HasPrefix(e.B, "site:") {
		side := math.Copysign(1, b.x-a.x)
		x1, x2 = a.x+side*a.w/2, b.x-side*b.w/2
	}
	return x1, y1, x2, y2
}

func (d *drawing) line(e Edge) {
	x1, y1, x2, y2 := d.ends(e)
	class := "access"
	if e.Core {
		class = "core"
	}
	if strings.HasPrefix(e.B, "site:") { // a gentle curve keeps many sites of one PE apart
		m := (x1 + x2) / 2
		fmt.Fprintf(&d.b, "<path d=\"M%.1f %.1f C%.1f %.1f %.1f %.1f %.1f %.1f\" fill=\"none\" class=\"%s\"/>\n", x1, y1, m, y1, m, y2, x2, y2, class)
		return
	}
	fmt.Fprintf(&d.b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, class)
}

// label stands in the middle of the visible part of its line. A label of two
// directions takes two lines.
func (d *drawing) label(e Edge) {
	if e.Label == "" {
		return
	}
	x1, y1, x2, y2 := d.ends(e)
	a, b := d.layout.boxes[e.A], d.layout.boxes[e.B]
	if !strings.HasPrefix(e.B, "site:") {
		x1, y1 = a.border(x2, y2)
		x2, y2 = b.border(a.x, a.y)
	}
	x, y := (x1+x2)/2, (y1+y2)/2
	lines := strings.SplitAfterN(strings.Replace(e.Label, " ←", "\n←", 1), "\n", 2)
	for i, s := range lines {
		half := labelChar * float64(len([]rune(strings.TrimSpace(s)))) / 2
		fmt.Fprintf(&d.b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"12\" fill=\"#fff\"/>\n", x-half-3, y-6+float64(i)*12-float64(len(lines)-1)*6, 2*half+6)
		d.text(x, y+3+float64(i)*12-float64(len(lines)-1)*6, "label", strings.TrimSpace(s))
	}
}

// labelChar is the mean width of a label's character, for the ground behind it.
const labelChar = 5.7

// border is where the line from the box's centre to (x, y) leaves the box.
func (b box) border(x, y float64) (float64, float64) {
	dx, dy := x-b.x, y-b.y
	t := 1.0
	if dx != 0 {
		t = min(t, b.w/2/math.Abs(dx))
	}
	if dy != 0 {
		t = min(t, b.h/2/math.Abs(dy))
	}
	return b.x + t*dx, b.y + t*dy
}
