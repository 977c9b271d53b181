package metrics

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
)

// fixedColumns are the first columns of samples.csv; labels follow.
var fixedColumns = []string{"experiment", "trial", "metric", "unit", "value"}

func isFixedColumn(name string) bool { return slices.Contains(fixedColumns, name) }

// WriteCSV writes samples as tidy CSV: the fixed columns, then one column a
// label, in alphabetical order.
func WriteCSV(w io.Writer, samples []Sample) error {
	names := map[string]bool{}
	for _, s := range samples {
		for k := range s.Labels {
			names[k] = true
		}
	}
	labels := slices.Sorted(maps.Keys(names))
	out := csv.NewWriter(w)
	row := slices.Concat(fixedColumns, labels)
	if err := out.Write(row); err != nil {
		return err
	}
	for _, s := range samples {
		row = append(row[:0], s.Experiment, strconv.Itoa(s.Trial), s.Metric, s.Unit, strconv.FormatFloat(s.Value, 'g', -1, 64))
		for _, k := range labels {
			row = append(row, s.Labels[k])
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// ReadCSV reads what WriteCSV wrote. Errors name the line.
func ReadCSV(r io.Reader) ([]Sample, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	head, err := in.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("samples: header: %w", err)
	}
	head = slices.Clone(head)
	if len(head) < len(fixedColumns) || !slices.Equal(head[:len(fixedColumns)], fixedColumns) {
		return nil, fmt.Errorf("samples: line 1: the first columns are %v, expected %v", head, fixedColumns)
	}
	var samples []Sample
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return samples, nil
		}
		if err != nil {
			return nil, fmt.Errorf("samples: %w", err)
		}
		s, err := parseRow(head, row)
		if err != nil {
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("samples: line %d: %w", line, err)
		}
		samples = append(samples, s)
	}
}

func parseRow(head, row []string) (Sample, error) {
	s := Sample{Experiment: row[0], Metric: row[2], Unit: row[3]}
	var err error
	if s.Trial, err = strconv.Atoi(row[1]); err != nil {
		return s, fmt.Errorf("trial: %w", err)
	}
	if s.Value, err = strconv.ParseFloat(row[4], 64); err != nil {
		return s, fmt.Errorf("value: %w", err)
	}
	for i, v := range row[len(fixedColumns):] {
		if v == "" {
			continue
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[head[len(fixedColumns)+i]] = v
	}
	return s, nil
}

func readCSVFile(path string) ([]Sample, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadCSV(f)
}
