package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

const maxBulk = 500 // tasks in one request

// bulkChange is the body of POST /tasks/bulk: which tasks, and what happens to each.
type bulkChange struct {
	IDs    []uuid              `json:"ids"`    // these tasks
	Filter *map[string]string  `json:"filter"` // or those that a list with these parameters has
	Set    optional[taskPatch] `json:"set"`    // change fields
	Delete bool                `json:"delete"` // or put into the trash
	DryRun bool                `json:"dryRun"` // only say which
}

func (in bulkChange) invalid() []fieldError {
	var f fields
	if (in.IDs == nil) == (in.Filter == nil) {
		f.wrong("ids", "required", "or filter must be given, and only one of them")
	}
	if len(in.IDs) > maxBulk {
		f.wrong("ids", "too_many", fmt.Sprintf("must have at most %d ids", maxBulk))
	}
	if in.Set.set == in.Delete || in.Set.null {
		f.wrong("set", "required", "or delete must be given, and only one of them")
	}
	for _, e := range in.Set.value.invalid() {
		f.wrong("set."+e.Field, e.Code, e.Message)
	}
	return f.errs
}

// bulkResult is what happened to one task of a bulk change.
type bulkResult struct {
	ID      uuid     `json:"id"`
	Status  int      `json:"status"` // as the single request would have answered
	Task    *task    `json:"task,omitempty"`
	Problem *problem `json:"problem,omitempty"`
}

// bulkAnswer is what POST /tasks/bulk answers.
type bulkAnswer struct {
	Matched int          `json:"matched"`
	DryRun  bool         `json:"dryRun"`
	Items   []bulkResult `json:"items"`
}

// handleBulk changes or deletes many tasks. Each is a change of its own with the rights, the
// history and the answer of the single request; one that fails leaves the others as they are.
func (s *server) handleBulk(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[bulkChange](w, r)
	if err != nil {
		return err
	}
	ids := in.IDs
	if in.Filter != nil {
		if ids, err = s.matchingTasks(r, *in.Filter); err != nil {
			return err
		}
	}
	out := bulkAnswer{Matched: len(ids), DryRun: in.DryRun, Items: []bulkResult{}}
	for _, id := range ids {
		result := bulkResult{ID: id, Status: http.StatusOK}
		if !in.DryRun {
			if result, err = s.changeOne(r.Context(), id, in); err != nil {
				return err
			}
		}
		out.Items = append(out.Items, result)
	}
	return writeJSON(w, http.StatusOK, out)
}

// changeOne does to one task what the bulk change says. Only a failure that would meet the others
// too is an error.
func (s *server) changeOne(ctx context.Context, id uuid, in bulkChange) (bulkResult, error) {
	me := callerOf(ctx).ID
	result := bulkResult{ID: id, Status: http.StatusNoContent}
	var err error
	if in.Delete {
		err = s.deleteTask(ctx, me, id, nil)
	} else {
		var t task
		if t, err = s.patchTask(ctx, me, id, in.Set.value, nil); err == nil {
			result.Status, result.Task = http.StatusOK, &t
		}
	}
	if p, ok := errors.AsType[*problem](err); ok {
		return bulkResult{ID: id, Status: p.Status, Problem: p}, nil
	}
	return result, err
}

// matchingTasks are the tasks that GET /tasks with these parameters lists; more than maxBulk is refused.
func (s *server) matchingTasks(r *http.Request, parameters map[string]string) ([]uuid, error) {
	q := &query{values: url.Values{}}
	for name, value := range parameters {
		q.values.Set(name, value)
	}
	f := q.taskQuery(r)
	if q.values.Has("sort") || q.values.Has("expand") {
		q.wrong("filter", "unknown_parameter", "takes no sort and no expand")
	}
	if err := q.done(); err != nil {
		p, _ := errors.AsType[*problem](err)
		for i := range p.Errors {
			p.Errors[i].Field = "filter." + p.Errors[i].Field
		}
		return nil, invalid(p.Errors...)
	}
	var ids []uuid
	sql, args := f.page("t.id", f.from, "t.id", f.by, page{limit: maxBulk})
	rows, err := queryAll[struct {
		ID      uuid
		SortKey string
	}](r.Context(), s.db, sql, args...)
	if err != nil {
		return nil, err
	}
	if len(rows) > maxBulk {
		return nil, invalid(fieldError{"filter", "too_many", fmt.Sprintf("must match at most %d tasks", maxBulk)})
	}
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	return ids, nil
}
