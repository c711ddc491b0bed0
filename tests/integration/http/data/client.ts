// A program on the generated client: asks a server everything that it can be asked, and prints what it said as JSON.
import { AsyncTask, AsyncTaskOrdering, AsyncTasksApi, AsyncTaskStatusEnum, Configuration, HealthApi } from './client';
import { isAxiosError } from 'axios';

const [basePath, accessToken, failed, chained] = process.argv.slice(2);

async function status(request: Promise<unknown>): Promise<unknown> {
    try {
        await request;
    } catch (error) {
        if (isAxiosError(error) && error.response) {
            return { status: error.response.status, problem: error.response.data };
        }
        throw error;
    }
    return { status: 200 };
}

async function pages(api: AsyncTasksApi, ordering: AsyncTaskOrdering): Promise<string[]> {
    const names: string[] = [];
    for (let cursor: string | undefined; ;) {
        const page = (await api.asyncTasksList({ ordering, cursor, limit: 2 })).data;
        names.push(...page.results.map((task: AsyncTask) => task.celeryTaskId ?? ''));
        if (page.next === null) {
            return names;
        }
        cursor = page.next;
    }
}

async function main(): Promise<void> {
    const known = new Configuration({ basePath, accessToken });
    const api = new AsyncTasksApi(known);
    const failures = await api.asyncTasksList({ status: [AsyncTaskStatusEnum.Failure, AsyncTaskStatusEnum.Lost], customer: 42 });
    const detail = await api.asyncTasksRetrieve({ id: failed });
    const tag = detail.headers['etag'];
    console.log(JSON.stringify({
        failures: failures.data,
        newest: await pages(api, AsyncTaskOrdering.createdAtDescending),
        oldest: await pages(api, AsyncTaskOrdering.createdAt),
        detail: detail.data,
        byNumber: (await api.asyncTasksRetrieve({ id: String(detail.data.id) })).data,
        unchanged: await status(api.asyncTasksRetrieve({ id: failed, ifNoneMatch: tag })),
        attempts: (await api.asyncTasksAttempts({ id: failed })).data,
        workflow: (await api.asyncTasksWorkflow({ id: chained })).data,
        stats: (await api.asyncTasksStats({ search: 'status:SUCCESS,FAILURE' })).data,
        health: (await new HealthApi(known).healthRetrieve()).data,
        badCursor: await status(api.asyncTasksList({ cursor: 'no-cursor' })),
        notThere: await status(api.asyncTasksRetrieve({ id: 'nothing' })),
        noToken: await status(new AsyncTasksApi(new Configuration({ basePath })).asyncTasksList()),
        preview: (await api.asyncTasksRerun({ id: failed, rerunRequest: { dryRun: true } })).data,
        counted: (await api.asyncTasksPurge({ purgeRequest: { olderThan: '1y' } })).data,
    }));
}

main();
