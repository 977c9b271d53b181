package plots

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/vpclab/vpclab/metrics"
)

// Figure is a drawn figure, or one that could not be drawn and why.
type Figure struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Caption string `json:"caption,omitempty"` // what is shown, n, spread, kernel, clock, how to redraw
	SVG     string `json:"svg,omitempty"`     // file names inside the run's folder
	PNG     string `json:"png,omitempty"`
	Reason  string `json:"reason,omitempty"` // why it was not drawn; "" for a drawn one
}

// Drawn reports whether there are files.
func (f Figure) Drawn() bool { return f.Reason == "" }

// figureKind is an entry of the list of figures.
type figureKind struct {
	name, title string
	// make lays the figure out; a *missing error says that the run has no
	// data for it.
	make func(*data) (*page, string, error)
}

// kinds are all figures, in the order of a report.
var kinds = []figureKind{
	{"setup-breakdown", "Time to set up a VPC, by stage", makeBreakdown},
	{"setup-vs-sites", "Set-up time against sites", makeSetupVsSites},
	{"setup-vs-tenants", "Set-up time against tenants", makeSetupVsTenants},
	{"rules-vs-vms", "Isolation state against VMs", makeRules},
	{"touched", "Rules touched when a VM is added or moves", makeTouched},
	{"reachability", "Reachability of every pair", makeReachability},
	{"join-timeline", "A site joins and leaves", makeJoin},
	{"reservation-rate", "A reserved flow beside greedy ones", makeReservationRate},
	{"reservation-latency", "Latency of reserved traffic beside greedy flows", makeReservationLatency},
	{"reservation-failure", "A reservation when a link fails", makeReservationFailure},
	{"lan", "How much of a LAN a VPLS is", makeLAN},
	{"operations-timeline", "Operations on running VPCs, stage by stage", makeOperations},
	{"routing-peer", "One lab, three control planes", makePeer},
	{"migration-summary", "vpclab and others against CloudNet", makeVersus},
	{"migration-timeline", "A VM moves, as its users see it", makeTimeline},
	{"migration-pause", "Pause against bandwidth, plain pre-copy", makePauseBandwidth},
	{"migration-bandwidth", "Migration against bandwidth", makeMigrationBandwidth},
	{"migration-rtt", "Migration against round-trip time", makeMigrationRTT},
	{"migration-cuts", "What is saved against plain pre-copy", makeCuts},
	{"migration-rounds", "Pages left by iteration, and where each algorithm stops", makeRounds},
	{"migration-round-bytes", "Data by iteration", makeRoundBytes},
	{"post-copy", "Handing over before, between and after", makePostCopy},
	{"migration-group", "VMs that move together", makeGroup},
	{"migration-disk", "A disk moves, and moves back", makeDisk},
	{"real-vms", "Ways to move a real VM", makeRealVMs},
	{"guest-prediction", "Process guests as a model of real VMs", makePrediction},
	{"encoders", "Compression and redundancy elimination", makeEncoders},
	{"redundancy", "Redundancy in memory", makeRedundancy},
	{"delta-sizes", "Sizes of page deltas", makeDeltaSizes},
	{"delta-savings", "What page deltas save", makeDeltaSavings},
	{"recovery-timeline", "Traffic around a fault of the network", makeRecoveryTimeline},
	{"recovery", "Outages of the network, by what it has to get over a fault", makeRecovery},
	{"recovery-detection", "Outage against detection time", makeDetection},
	{"recovery-prefixes", "Outage against prefixes", makePrefixes},
	{"failover-timeline", "A VM fails over, as its users see it", makeFailoverTimeline},
	{"failover-time", "Recovery time of an application, part by part", makeRTO},
	{"failover-loss", "What a failover loses", makeRPO},
	{"planned", "Moved in time, or failed over", makePlanned},
	{"replication-cost", "What checkpoints cost", makeReplicationCost},
	{"replication-rtt", "Replication against round-trip time", makeReplicationRTT},
	{"availability", "A VM under random faults", makeAvailability},
	{"false-matches", "False matches by length of hash", makeFalseMatches},
}

// Names are the names of all figures.
func Names() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// missing says that a run has not what a figure needs.
type missing struct{ reason string }

func (m *missing) Error() string { return m.reason }

func missingf(format string, args ...any) error { return &missing{fmt.Sprintf(format, args...)} }

// Draw draws figures from the results in a run's folder into its figures/
// folder, as SVG and PNG; no names means all. Figures whose data the run does
// not have are returned with a Reason. figures/figures.json keeps titles and
// captions of the last drawing of each figure.
func Draw(dir string, names []string) ([]Figure, error) {
	for _, n := range names {
		if !slices.Contains(Names(), n) {
			return nil, fmt.Errorf("draw %s: there is no figure %q; figures are %s", dir, n, strings.Join(Names(), ", "))
		}
	}
	d, err := load(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "figures"), 0o755); err != nil {
		return nil, fmt.Errorf("draw %s: %w", dir, err)
	}
	var figures []Figure
	for _, k := range kinds {
		if len(names) > 0 && !slices.Contains(names, k.name) {
			continue
		}
		f, err := k.draw(d, dir)
		if err != nil {
			return figures, fmt.Errorf("draw %s: figure %s: %w", dir, k.name, err)
		}
		figures = append(figures, f)
	}
	return figures, remember(dir, figures)
}

// draw makes one figure and its two files.
func (k figureKind) draw(d *data, dir string) (Figure, error) {
	base := filepath.Join("figures", k.name)
	f, p, err := k.layOut(d)
	if err != nil {
		return f, err
	}
	if p == nil {
		if old, ok := kept(d, dir, k.name); ok {
			return old, nil
		}
		return f, removeOld(dir, base)
	}
	f.SVG, f.PNG = base+".svg", base+".png"
	svg, err := p.svg(f)
	if err != nil {
		return f, err
	}
	png, err := p.png()
	if err != nil {
		return f, err
	}
	if err := metrics.ReplaceFile(filepath.Join(dir, f.SVG), svg); err != nil {
		return f, err
	}
	return f, metrics.ReplaceFile(filepath.Join(dir, f.PNG), png)
}

// kept is a figure as it was drawn when the trials that it shows were there, of
// a run of which they were not kept.
func kept(d *data, dir, name string) (Figure, bool) {
	if !d.store.Reduced() {
		return Figure{}, false
	}
	known, err := recall(dir)
	if err != nil {
		return Figure{}, false
	}
	for _, f := range known {
		if _, err := os.Stat(filepath.Join(dir, f.SVG)); f.Name == name && f.Drawn() && err == nil {
			return f, true
		}
	}
	return Figure{}, false
}

// removeOld removes the files of an earlier drawing.
func removeOld(dir, base string) error {
	for _, ext := range []string{".svg", ".png"} {
		if err := os.Remove(filepath.Join(dir, base+ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// svg draws the page as SVG, with a title and description for those who
// cannot see it and with fall-back fonts of the same widths.
func (p *page) svg(f Figure) ([]byte, error) {
	canvas := vgsvg.New(p.width, p.height())
	p.draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	_, body, ok := strings.Cut(b.String(), "xmlns:xlink=\"http://www.w3.org/1999/xlink\">\n")
	if !ok {
		return nil, errors.New("the SVG writer's head is not as expected")
	}
	body = strings.NewReplacer(
		"font-family:Liberation Sans;", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif;",
		"font-variant:normal;", "", "font-weight:normal;", "", "font-style:normal;", "",
	).Replace(body)
	var out bytes.Buffer
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"%.5gpt\" height=\"%.5gpt\" viewBox=\"0 0 %.5g %.5g\">\n",
		p.width, p.height(), p.width, p.height())
	fmt.Fprintf(&out, "<title>%s</title>\n<desc>%s</desc>\n", escapeXML(f.Title), escapeXML(f.Caption))
	out.WriteString(body)
	return out.Bytes(), nil
}

func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}

func (p *page) png() ([]byte, error) {
	canvas := vgimg.NewWith(vgimg.UseWH(p.width, p.height()), vgimg.UseDPI(pngDPI))
	p.draw(draw.New(canvas))
	var b bytes.Buffer
	_, err := vgimg.PngCanvas{Canvas: canvas}.WriteTo(&b)
	return b.Bytes(), err
}

// catalogue is the file that keeps titles and captions beside the figures.
const catalogue = "figures/figures.json"

// remember merges figures into the catalogue.
func remember(dir string, figures []Figure) error {
	known, err := recall(dir)
	if err != nil {
		known = nil // unreadable: it is written anew
	}
	var all []Figure
	for _, k := range kinds {
		for _, list := range [][]Figure{figures, known} {
			if i := slices.IndexFunc(list, func(f Figure) bool { return f.Name == k.name }); i >= 0 {
				all = append(all, list[i])
				break
			}
		}
	}
	out, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := metrics.ReplaceFile(filepath.Join(dir, catalogue), append(out, '\n')); err != nil {
		return fmt.Errorf("draw %s: %w", dir, err)
	}
	return nil
}

// recall reads the catalogue; no catalogue is no figures.
func recall(dir string) ([]Figure, error) {
	raw, err := os.ReadFile(filepath.Join(dir, catalogue))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var known []Figure
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, fmt.Errorf("%s: %w", catalogue, err)
	}
	return known, nil
}

// lineHeight is what a line of small text takes.
func lineHeight() vg.Length { return textSize + leading }
