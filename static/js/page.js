// What every page without news of its own does.
import { localise } from "./time.js";

localise(document);
