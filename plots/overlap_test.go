package plots

import (
	"image"
	"image/color"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/vpclab/vpclab/metrics"
)

// textBox is where a text lies on the page.
type textBox struct {
	text string
	vg.Rectangle
}

// affine is a transform of the canvas: x' = a x + c y + e, y' = b x + d y + f.
type affine struct{ a, b, c, d, e, f float64 }

// textProbe is a canvas that only notes where text goes.
type textProbe struct {
	stack []affine
	boxes []textBox
}

func newProbe() *textProbe { return &textProbe{stack: []affine{{a: 1, d: 1}}} }

func (p *textProbe) top() *affine { return &p.stack[len(p.stack)-1] }

func (p *textProbe) Push() { p.stack = append(p.stack, *p.top()) }
func (p *textProbe) Pop()  { p.stack = p.stack[:len(p.stack)-1] }

func (p *textProbe) Translate(pt vg.Point) {
	m := p.top()
	m.e, m.f = m.a*float64(pt.X)+m.c*float64(pt.Y)+m.e, m.b*float64(pt.X)+m.d*float64(pt.Y)+m.f
}

func (p *textProbe) Rotate(rad float64) {
	m := p.top()
	sin, cos := math.Sincos(rad)
	m.a, m.b, m.c, m.d = m.a*cos+m.c*sin, m.b*cos+m.d*sin, m.c*cos-m.a*sin, m.d*cos-m.b*sin
}

func (p *textProbe) Scale(x, y float64) {
	m := p.top()
	m.a, m.b, m.c, m.d = m.a*x, m.b*x, m.c*y, m.d*y
}

func (p *textProbe) FillString(f font.Face, pt vg.Point, text string) {
	if text == "" {
		return
	}
	w, up, down := float64(f.Width(text)), 0.72*float64(f.Font.Size), 0.2*float64(f.Font.Size)
	box := vg.Rectangle{Min: vg.Point{X: math.MaxFloat64, Y: math.MaxFloat64}, Max: vg.Point{X: -math.MaxFloat64, Y: -math.MaxFloat64}}
	m := p.top()
	for _, c := range [][2]float64{{0, -down}, {w, -down}, {w, up}, {0, up}} {
		x, y := float64(pt.X)+c[0], float64(pt.Y)+c[1]
		X, Y := vg.Length(m.a*x+m.c*y+m.e), vg.Length(m.b*x+m.d*y+m.f)
		box.Min.X, box.Min.Y = min(box.Min.X, X), min(box.Min.Y, Y)
		box.Max.X, box.Max.Y = max(box.Max.X, X), max(box.Max.Y, Y)
	}
	p.boxes = append(p.boxes, textBox{text, box})
}

func (*textProbe) SetLineWidth(vg.Length)              {}
func (*textProbe) SetLineDash([]vg.Length, vg.Length)  {}
func (*textProbe) SetColor(color.Color)                {}
func (*textProbe) Stroke(vg.Path)                      {}
func (*textProbe) Fill(vg.Path)                        {}
func (*textProbe) DrawImage(vg.Rectangle, image.Image) {}

// TestTextIsReadable lays out figures of labs of many shapes and checks that
// no text leaves the page and none lies on another.
func TestTextIsReadable(t *testing.T) {
	runs := map[string]*metrics.Store{"paper": paperStore()}
	for name, r := range map[string]syntheticRun{
		"one lab":       {sites: []int{3}, tenants: []int{2}, machines: []int{2}, trials: 3, largestMatrix: 100, flows: []int{4}, raceTrials: 1, services: true, moves: quickMoves(), failures: 2},
		"all moves":     {moves: allMoves()},
		"no scale":      {moves: &syntheticMoves{scale: 1.0 / 16, trials: 3, slow: "1.25ms", noScale: true, workloads: []string{"idle"}, algorithms: []string{"vpclab", "xen30", "odd"}, rates: []string{"100mbit", "465mbit"}}},
		"VPN only":      {sites: []int{8}, tenants: []int{5, 20}, machines: []int{1, 2}, trials: 2, largestMatrix: 400, noFirewall: true, flows: []int{2, 16}, raceTrials: 3},
		"many sizes":    {sites: []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16}, tenants: []int{1}, machines: []int{1}, trials: 1, largestMatrix: 16},
		"many tenants":  {sites: []int{2}, tenants: []int{60}, machines: []int{1}, trials: 1, largestMatrix: 400},
		"large numbers": {sites: []int{40, 400}, tenants: []int{100}, machines: []int{10}, trials: 1},
	} {
		runs[name] = r.write(t)
	}
	for name, s := range runs {
		for figure, p := range layOutAll(t, s) {
			probe := newProbe()
			p.draw(draw.NewCanvas(probe, p.width, p.height()))
			require.NotEmpty(t, probe.boxes)
			for i, b := range probe.boxes {
				if b.Min.X < 0 || b.Min.Y < 0 || b.Max.X > p.width || b.Max.Y > p.height() {
					t.Errorf("%s: %s: %q is cut at the page's edge: %v of %v x %v", name, figure, b.text, b.Rectangle, p.width, p.height())
				}
				for _, o := range probe.boxes[:i] {
					if overlap(b.Rectangle, o.Rectangle) {
						t.Errorf("%s: %s: %q lies on %q", name, figure, b.text, o.text)
					}
				}
			}
		}
	}
}

// overlap reports whether two boxes share more than a sliver.
func overlap(a, b vg.Rectangle) bool {
	const sliver = 0.6
	return min(a.Max.X, b.Max.X)-max(a.Min.X, b.Min.X) > sliver && min(a.Max.Y, b.Max.Y)-max(a.Min.Y, b.Min.Y) > sliver
}
