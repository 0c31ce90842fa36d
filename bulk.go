package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/jackc/pgx/v5"
)

const maxBulk = 500 // tasks in one request

// bulkChange is the body of POST /tasks/bulk: which tasks, and what happens to each.
type bulkChange struct {
	IDs    []uuid              `json:"ids"`    // these tasks
	Filter *map[string]string  `json:"filter"` // or those that a list with these parameters has
	Set    optional[taskPatch] `json:"set"`    // change fields
	Delete bool                `json:"delete"` // or put into the trash
	DryRun bool                `json:"dryRun"` // only say what would happen
}

func (in bulkChange) invalid() []fieldError {
	var f fields
	if (in.IDs == nil) == (in.Filter == nil) {
		f.wrong("ids", "required", "or filter must be given, and only one of them")
	}
	if in.Filter != nil && len(*in.Filter) == 0 {
		f.wrong("filter", "required", "must have at least one parameter; all tasks at once are never meant")
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
	gone := map[uuid]bool{}
	for _, id := range ids {
		result, err := s.changeOne(r.Context(), id, in, gone)
		if p, ok := errors.AsType[*problem](err); ok {
			result = bulkResult{ID: id, Status: p.Status, Problem: p}
		} else if err != nil { // would meet the others too
			return err
		}
		out.Items = append(out.Items, result)
	}
	return writeJSON(w, http.StatusOK, out)
}

// changeOne does to one task what the bulk change says. gone are the tasks that it has deleted so
// far, as the subtasks of others perhaps.
func (s *server) changeOne(ctx context.Context, id uuid, in bulkChange, gone map[uuid]bool) (bulkResult, error) {
	me := callerOf(ctx).ID
	switch {
	case in.Delete && gone[id]:
		return bulkResult{ID: id, Status: http.StatusNoContent}, nil
	case in.Delete && in.DryRun:
		return bulkResult{ID: id, Status: http.StatusNoContent}, s.try(ctx, taskDeletion(me, id, nil))
	case in.Delete:
		deleted, err := sendOne[struct{ IDs []uuid }](ctx, s.db, taskDeletion(me, id, nil))
		for _, id := range deleted.IDs {
			gone[id] = true
		}
		return bulkResult{ID: id, Status: http.StatusNoContent}, err
	}
	b, err := taskUpdate(me, id, in.Set.value, nil)
	if err != nil {
		return bulkResult{}, err
	}
	if in.DryRun {
		return bulkResult{ID: id, Status: http.StatusOK}, s.try(ctx, b)
	}
	t, err := sendAnd[task](ctx, s, b, in.Set.value.facts(me, id)...)
	return bulkResult{ID: id, Status: http.StatusOK, Task: &t}, err
}

var errDryRun = errors.New("dry run")

// try tells what a change would meet: it is made and undone.
func (s *server) try(ctx context.Context, b *pgx.Batch) error {
	err := s.db.inTx(ctx, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, unsent(b)).Close(); err != nil {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// matchingTasks are the tasks that GET /tasks with these parameters lists; more than maxBulk is refused.
func (s *server) matchingTasks(r *http.Request, parameters map[string]string) ([]uuid, error) {
	q := &query{values: url.Values{}, unranked: true}
	for name, value := range parameters {
		q.values.Set(name, value)
	}
	f := q.taskQuery(callerOf(r.Context()), false)
	for _, name := range []string{"sort", "expand", "deleted"} {
		if q.values.Has(name) {
			q.wrong(name, "unknown_parameter", "is not a parameter of a bulk change")
		}
	}
	if err := q.done(); err != nil {
		p, _ := errors.AsType[*problem](err)
		for i := range p.Errors {
			p.Errors[i].Field = "filter." + p.Errors[i].Field
		}
		return nil, invalid(p.Errors...)
	}
	if f.project != nil {
		if err := s.mayRead(r.Context(), *f.project); err != nil {
			return nil, err
		}
	}
	var ids []uuid
	sql, args := f.page("t.id", sorting{order: taskOrders["createdAt"]}, page{limit: maxBulk}) // parents first
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
