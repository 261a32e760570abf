package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// generate writes train.csv, the orders of February, and live/MONDAY.csv, those of three
// weeks of March. From the second week on customers order more, and from elsewhere.
func generate(dir string) error {
	february := time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC)
	if err := write(filepath.Join(dir, "train.csv"), february, 4*7, 0); err != nil {
		return err
	}
	for week, shift := range []float64{0, 0.6, 0.6} {
		monday := february.AddDate(0, 0, 7*(4+week))
		if err := write(filepath.Join(dir, "live", monday.Format(time.DateOnly)+".csv"), monday, 7, shift); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, from time.Time, days int, shift float64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := csv.NewWriter(f)
	_ = w.Write([]string{"order_id", "at", "country", "items", "amount"}) // the writer keeps its error
	random := rand.New(rand.NewPCG(uint64(from.Unix()), 1))               // the same orders each time
	for i := range days * 100 {
		at := from.Add(time.Duration(i) * 24 * time.Hour / 100)
		country := "AT"
		if random.Float64() < 0.2+shift/3 {
			country = "CH"
		}
		items := 1 + random.IntN(5)
		amount := math.Exp(3+shift+0.4*random.NormFloat64()) * float64(items)
		_ = w.Write([]string{strconv.Itoa(i + 1), at.Format(time.RFC3339), country, strconv.Itoa(items), fmt.Sprintf("%.2f", amount)})
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return err
	}
	return f.Close()
}

func meanAmount(path string) (mean float64, rows int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err == nil && len(all) < 2 {
		err = errors.New("there are no orders")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	for _, row := range all[1:] {
		amount, err := strconv.ParseFloat(row[4], 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read %s: %w", path, err)
		}
		mean += amount / float64(len(all)-1)
	}
	return mean, len(all) - 1, nil
}
