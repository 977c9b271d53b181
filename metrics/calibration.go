package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CalibrationFile is the name of a calibration in the folder that it was
// written to.
const CalibrationFile = "fidelity.json"

// CalibrationSchema is the version of the file's form.
const CalibrationSchema = 1

// Further grades of a measurement: one without a bar, and one that was not
// made. Neither fails a calibration.
const (
	FidelityReport = "report"
	FidelityNone   = "none"
)

// Calibration is what a kernel's links, queues, timers and labels do, beside
// what was asked of them: what `vpclab calibrate` leaves.
type Calibration struct {
	Kind    string        `json:"kind"`   // "calibration"
	Schema  int           `json:"schema"` // CalibrationSchema
	Version string        `json:"version"`
	Args    []string      `json:"args"`
	Started time.Time     `json:"started"`
	TookS   float64       `json:"took_s"`
	Quick   bool          `json:"quick,omitempty"` // short runs: figures for a glance
	Kernel  KernelInfo    `json:"kernel"`
	Host    HostInfo      `json:"host"`
	Results []Calibrated  `json:"results"`
	Curves  []GapCurve    `json:"curves,omitempty"` // of F1, a rate each
	Peers   []PeerMissing `json:"peers_missing,omitempty"`
}

// Calibrated is one measurement held against its bar.
type Calibrated struct {
	Test     string `json:"test"`     // "F1"
	System   string `json:"system"`   // vpclab | mininet
	What     string `json:"what"`     // "inter-packet gap"
	Set      string `json:"set"`      // what was asked for, in words
	Measured string `json:"measured"` // what came of it, in words
	// Error is what Bar bounds, both in Unit; Bar 0 with grade "report" is none.
	Error float64 `json:"error"`
	Bar   float64 `json:"bar"`
	Unit  string  `json:"unit"`
	Grade string  `json:"grade"` // pass | warn | void | report | none
	N     int     `json:"n"`
	Note  string  `json:"note,omitempty"` // why it is void, none or different
	// Values are all figures behind it, by name with their unit.
	Values map[string]float64 `json:"values,omitempty"`
}

// PeerMissing is a system that was asked for and could not be measured.
type PeerMissing struct {
	System string `json:"system"`
	Why    string `json:"why"`
}

// GapCurve is the complementary distribution of |gap/ideal - 1| at one rate.
type GapCurve struct {
	System  string  `json:"system"`
	RateBps float64 `json:"rate_bps"`
	IdealNs float64 `json:"ideal_ns"`
	Frame   int     `json:"frame_bytes"` // on the wire; of a super frame, with the headers of its segments
	N       int     `json:"n"`
	// Deviation, in percent of the ideal gap, that the Share of all gaps exceeds.
	Deviation []float64 `json:"deviation_percent"`
	Share     []float64 `json:"share"`
}

// Judge grades a measurement by its error: over the bar and within twice of it
// is a warning, more is void.
func (c Calibrated) Judge() Calibrated {
	switch {
	case c.Error <= c.Bar:
		c.Grade = FidelityPass
	case c.Error <= 2*c.Bar:
		c.Grade = FidelityWarn
	default: // NaN too
		c.Grade = FidelityVoid
	}
	return c
}

// Count is how many of a system's measurements have a grade.
func (c *Calibration) Count(system, grade string) (n int) {
	for _, r := range c.Results {
		if r.System == system && r.Grade == grade {
			n++
		}
	}
	return n
}

// WriteCalibration puts c into dir, whole or not at all.
func WriteCalibration(dir string, c *Calibration) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("calibration: %w", err)
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("calibration: %w", err)
	}
	if err := ReplaceFile(filepath.Join(dir, CalibrationFile), append(data, '\n')); err != nil {
		return fmt.Errorf("calibration: %w", err)
	}
	return nil
}

// ReadCalibration reads what WriteCalibration wrote.
func ReadCalibration(dir string) (*Calibration, error) {
	path := filepath.Join(dir, CalibrationFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("calibration: %w", err)
	}
	var c Calibration
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("calibration %s: %w", path, err)
	}
	if c.Kind != "calibration" {
		return nil, fmt.Errorf("calibration %s: it is of kind %q", path, c.Kind)
	}
	if c.Schema > CalibrationSchema {
		return nil, fmt.Errorf("calibration %s: its form is version %d, this program knows %d", path, c.Schema, CalibrationSchema)
	}
	return &c, nil
}
