//go:build !race

package plots

const raceDetector = false
