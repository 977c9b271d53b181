package plots

import (
	"image/color"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Widths of figures: one and two columns of a printed page.
const (
	columnWidth = 3.5 * vg.Inch
	doubleWidth = 7 * vg.Inch
)

// pngDPI is for print. Tests under the race detector, which makes painting
// dots slow, lower it.
var pngDPI = 300

// Sizes, in points.
const (
	margin       = vg.Length(5)
	titleSize    = vg.Length(9.5)
	labelSize    = vg.Length(8.5)
	textSize     = vg.Length(8) // nothing is smaller
	leading      = vg.Length(2.5)
	hairline     = vg.Length(0.4)
	thinLine     = vg.Length(0.6)
	seriesLine   = vg.Length(1.1)
	markerRadius = vg.Length(2.2)
	capHalf      = vg.Length(2.2) // half the width of a whisker's cap
)

// The colours of Okabe and Ito ("Color Universal Design", 2008), and greys.
var (
	orange     = rgb(0xE69F00)
	skyBlue    = rgb(0x56B4E9)
	green      = rgb(0x009E73)
	yellow     = rgb(0xF0E442)
	blue       = rgb(0x0072B2)
	vermillion = rgb(0xD55E00)
	purple     = rgb(0xCC79A7)
	black      = rgb(0x000000)
	ink        = rgb(0x1A1A1A)
	subtleInk  = rgb(0x4A4A4A)
	grey       = rgb(0x8C8C8C)
	paleGrey   = rgb(0xEFEFEF)
	gridGrey   = rgb(0xDEDEDE)
	midGrey    = rgb(0xBDBDBD)
	white      = rgb(0xFFFFFF)
)

func rgb(v uint32) color.NRGBA {
	return color.NRGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 0xFF}
}

// textStyle is Liberation Sans, whose letters are as wide as those of Arial
// and Helvetica: an SVG looks the same where only those are installed.
func textStyle(size vg.Length, c color.Color) text.Style {
	return text.Style{
		Color: c, XAlign: draw.XLeft, YAlign: draw.YBottom,
		Font:    font.Font{Typeface: "Liberation", Variant: "Sans", Size: size},
		Handler: text.Plain{Fonts: font.DefaultCache},
	}
}

func boldStyle(size vg.Length, c color.Color) text.Style {
	s := textStyle(size, c)
	s.Font.Weight = xfont.WeightBold
	return s
}

// look is how a series or a kind of bar is drawn: every part of it, not the
// colour alone, tells it from the others.
type look struct {
	color  color.Color
	marker marker
	dashes []vg.Length
	hatch  hatch
}

// marker is a point's shape.
type marker int

const (
	filledCircle marker = iota
	openCircle
	filledSquare
	openSquare
	filledTriangle
	openDiamond
	openTriangle
	filledDiamond
	filledDown // a triangle on its tip
	openDown
	plusMark
	crossMark
)

// hollow is the open form of a marker, for values that were not measured here.
func hollow(m marker) marker {
	switch m {
	case filledSquare:
		return openSquare
	case filledTriangle:
		return openTriangle
	case filledDiamond:
		return openDiamond
	case filledDown:
		return openDown
	}
	return openCircle
}

// hatch is a bar's pattern.
type hatch int

const (
	noHatch     hatch = iota
	risingBars        // ////
	fallingBars       // \\\\
	crossedBars       // xxxx
	uprightBars       // ||||
	levelBars         // ====
)

var (
	dashed = []vg.Length{4, 2}
	dotted = []vg.Length{1.2, 1.8}
)

// Looks of the two systems, each in a first and a second role (first packet
// and programmed; configuration and forwarding state).
var (
	vpnLook        = look{color: blue, marker: filledCircle}
	vpnSecond      = look{color: skyBlue, marker: openCircle, dashes: dotted, hatch: risingBars}
	firewallLook   = look{color: vermillion, marker: filledSquare, dashes: dashed, hatch: fallingBars}
	firewallSecond = look{color: orange, marker: openSquare, dashes: dotted, hatch: crossedBars}
	setsLook       = look{color: green, marker: filledTriangle, dashes: []vg.Length{7, 2, 1.5, 2}}
	setsSecond     = look{color: grey, marker: openDiamond, dashes: dotted}
)

// Looks of a lab with its reservations and without, and of the flows in it.
var (
	withLook      = look{color: blue, marker: filledCircle}
	withSecond    = look{color: blue, marker: openCircle, dashes: dashed}
	withThird     = look{color: skyBlue, marker: filledTriangle, dashes: dotted}
	withoutLook   = look{color: vermillion, marker: filledSquare, dashes: []vg.Length{7, 2, 1.5, 2}}
	withoutSecond = look{color: vermillion, marker: openSquare, dashes: dashed}
	withoutThird  = look{color: orange, marker: openDiamond, dashes: dotted}

	reservedLook = look{color: blue}
	othersLook   = look{color: vermillion, dashes: dashed}
)

// system is one of the ways to isolate tenants that an experiment compares.
type system struct {
	id, name string
	bar      look // of bars that stand for the system
}

// systems are in the order of bars.
var systems = []system{
	{"vpn", "VPN", look{color: blue}},
	{"firewall", "firewall", look{color: orange, hatch: risingBars}},
	{"firewall-sets", "firewall, sets", look{color: green, hatch: fallingBars}},
}

// stage is a step of setting up a VPC: the metric is the time since the
// request at which it was complete.
type stage struct {
	metric, name string
	look         look
}

// setupStages are in the order of the work.
var setupStages = []stage{
	{"setup.configured", "configure", look{color: blue}},
	{"setup.policy", "RT policy", look{color: skyBlue, hatch: risingBars}},
	{"setup.announced", "BGP announce", look{color: green, hatch: fallingBars}},
	{"setup.programmed", "program", look{color: yellow, hatch: crossedBars}},
	{"setup.first_packet", "first packet", look{color: orange, hatch: levelBars}},
	{"setup.matrix", "matrix verified", look{color: paleGrey, hatch: uprightBars}},
}
